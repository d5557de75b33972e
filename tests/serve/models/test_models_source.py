"""Model names, taken apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.errors import UsageError
from ironloom.serve.models.source import SourceKind, parse_model


def test_a_hub_name_has_owner_and_name() -> None:
    source = parse_model("hf://HuggingFaceTB/SmolLM2-135M-Instruct")
    assert (source.kind, source.repo, source.revision) == (SourceKind.HUB, "HuggingFaceTB/SmolLM2-135M-Instruct", "")


def test_a_revision_follows_a_colon_as_in_kserve() -> None:
    source = parse_model("hf://meta-llama/Llama-3.1-8B:refs/pr/7")
    assert (source.repo, source.revision) == ("meta-llama/Llama-3.1-8B", "refs/pr/7")
    assert source.uri == "hf://meta-llama/Llama-3.1-8B:refs/pr/7"


def test_one_gguf_file_of_a_repository_can_be_named() -> None:
    source = parse_model("hf://bartowski/Llama-GGUF/Llama-Q4_K_M.gguf:main")
    assert (source.repo, source.file, source.revision) == ("bartowski/Llama-GGUF", "Llama-Q4_K_M.gguf", "main")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("file:///models/a", "/models/a"),
        ("/models/a", "/models/a"),
        ("./a", "./a"),
        ("~/a.gguf", "~/a.gguf"),
        (".", "."),
    ],
)
def test_files_and_folders_of_this_machine(text: str, path: str) -> None:
    source = parse_model(text)
    assert (source.kind, source.path) == (SourceKind.FILE, path)


def test_a_claim_and_a_path_in_it() -> None:
    source = parse_model("pvc://models/llama/8b")
    assert (source.kind, source.claim, source.path) == (SourceKind.CLAIM, "models", "llama/8b")


def test_a_bucket_and_a_prefix() -> None:
    assert parse_model("s3://my-bucket/llama/8b/").path == "my-bucket/llama/8b"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("smollm2-135m-instruct:main", "write `hf://HuggingFaceTB/SmolLM2-135M-Instruct:main`"),
        ("SmolLM2-135M-Instruct:refs/pr/7", "write `hf://HuggingFaceTB/SmolLM2-135M-Instruct:refs/pr/7`"),
        ("smollm2-135m-instruct:", "write `hf://HuggingFaceTB/SmolLM2-135M-Instruct:REVISION`"),
    ],
)
def test_a_short_name_takes_no_revision_and_the_error_says_which_name_does(text: str, hint: str) -> None:
    with pytest.raises(UsageError, match=r"has the revision .*, and the short name .* takes none") as refused:
        parse_model(text, shorthands=True)
    assert refused.value.hint == hint


def test_the_short_forms_are_of_the_command_line_only() -> None:
    whole = "hf://HuggingFaceTB/SmolLM2-135M-Instruct"
    assert parse_model("smollm2-135m-instruct", shorthands=True).uri == whole
    assert parse_model("HuggingFaceTB/SmolLM2-135M-Instruct", shorthands=True).uri == whole
    assert parse_model("owner/name", shorthands=False).kind is SourceKind.FILE
    with pytest.raises(UsageError):
        parse_model("smollm2-135m-instruct")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "hf://",
        "hf://one",
        "hf://a/b:",
        "hf://a/b:x..y",
        "hf://a/../b",
        "hf://../etc",
        "hf://a--b/c",
        "hf://a/b/model.safetensors",
        "hf://a/b/../c.gguf",
        "file://relative",
        "pvc:///path",
        "pvc://claim/../..",
        "s3://bucket",
        "s3://b/..",
        "gs://bucket/a",
        "http://host/a",
        "hf://a/b\n",
        "a\0b",
    ],
)
def test_what_names_no_model_is_refused_with_what_is_allowed(text: str) -> None:
    if text == "hf://a/b\n":
        assert parse_model(text).repo == "a/b"  # a newline at the end comes from a shell, and means nothing
        return
    with pytest.raises(UsageError) as caught:
        parse_model(text)
    assert (
        "hf://" in str(caught.value)
        or "://" in str(caught.value)
        or "only one GGUF" in str(caught.value)
        or ("revision" in str(caught.value))
    )


@given(st.text(max_size=80), st.sampled_from(["", "hf://", "file://", "pvc://", "s3://"]), st.booleans())
def test_any_text_is_a_model_or_a_usage_error(text: str, scheme: str, shorthands: bool) -> None:
    try:
        source = parse_model(scheme + text, shorthands=shorthands)
    except UsageError:
        return
    assert parse_model(source.uri).uri == source.uri
    assert ".." not in source.repo
    assert ".." not in source.claim
