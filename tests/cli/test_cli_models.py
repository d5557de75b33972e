"""`ironloom models pull` and `rm` as data; the cache itself is tested with the models."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fake_control import FakeControl, Run, run_of, service
from tests.fakes.hub import FakeHub, fake_hub
from tests.fakes.weights import config, safetensors_file

from ironloom.serve.engines.base import LocalModel, ModelFormat
from ironloom.serve.models.cache import CachedModel, key_of


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IRONLOOM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hub(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with acme/tiny; HF_HOME is empty."""
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with fake_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        running.put("acme/tiny", {"config.json": config(), "model.safetensors": safetensors_file()})
        yield running


def test_pull_for_programs_says_what_the_model_is_and_where(cache: Path, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "llama"
    folder.mkdir()
    (folder / "config.json").write_bytes(config())
    (folder / "model.safetensors").write_bytes(safetensors_file())
    for data in (
        json.loads(run("models", "pull", str(folder), "-o", "json").out),
        yaml.safe_load(run("models", "pull", str(folder), "-o", "yaml").out),
    ):
        assert (data["path"], data["format"]) == (str(folder), "safetensors")
        assert data["size_bytes"] > (folder / "config.json").stat().st_size


def test_rm_for_programs_says_what_went_also_before_what_is_not_there(cache: Path, fake: FakeControl, run: Run) -> None:
    part = cache / "partial" / key_of("hf://acme/tiny")
    part.mkdir(parents=True)
    (part / "model.safetensors").write_bytes(b"x" * 4096)
    result = run("models", "rm", "acme/tiny", "acme/other", "-o", "json")
    assert result.status == 1
    (gone,) = json.loads(result.out)
    assert gone["uri"] == "hf://acme/tiny"
    assert gone["freed_bytes"] >= 4096
    assert not part.exists()


def test_rm_of_a_folder_takes_what_was_made_of_it_and_leaves_the_folder(
    cache: Path, fake: FakeControl, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "terms"
    folder.mkdir()
    made = cache / "converted" / key_of(f"file://{folder}")
    made.mkdir(parents=True)
    (made / "model.bin").write_bytes(b"x" * 4096)
    monkeypatch.chdir(tmp_path)
    result = run("models", "rm", "./terms/")
    assert (result.status, made.exists(), folder.exists()) == (0, False, True)
    assert result.out == f"What the cache had of {folder} is removed, 4.0 KiB given back; {folder} stays\n"
    again = run("models", "rm", "./terms")
    assert again.status == 1
    assert f"has nothing that was made of {folder}" in again.err


def test_list_is_a_table_for_a_person_and_the_same_for_programs(
    cache: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert json.loads(run("models", "list", "-o", "json").out) == []
    assert "The cache is empty" in run("models", "list").err
    model = LocalModel(
        uri="hf://acme/tiny", path=cache / "tiny", format=ModelFormat.SAFETENSORS, size_bytes=4096, architecture="llama"
    )
    entry = CachedModel(model=model, size_bytes=4096, last_used_s=2.0, pulled_at_s=1.0)
    monkeypatch.setattr("ironloom.serve.models.cache.list_models", lambda _: [entry])
    (told,) = json.loads(run("models", "list", "-o", "json").out)
    assert (told["uri"], told["format"], told["size_bytes"]) == ("hf://acme/tiny", "safetensors", 4096)
    assert yaml.safe_load(run("models", "list", "-o", "yaml").out) == [told]
    assert "hf://acme/tiny" in run("models", "list").out


def test_a_model_that_is_here_is_asked_for_again_with_refresh_alone(hub: FakeHub, run: Run) -> None:
    first = json.loads(run("models", "pull", "acme/tiny", "-o", "json").out)
    newest = hub.put("acme/tiny", {"config.json": config(), "model.safetensors": safetensors_file({"b": (64, 64)})})
    hub.requests.clear()
    assert json.loads(run("models", "pull", "acme/tiny", "-o", "json").out) == first
    assert hub.requests == []
    refreshed = json.loads(run("models", "pull", "acme/tiny", "--refresh", "-o", "json").out)
    assert Path(refreshed["path"]).name == newest
    assert refreshed["size_bytes"] > first["size_bytes"]
    hub.requests.clear()
    assert run("models", "pull", "acme/tiny", "--refresh").status == 0
    assert hub.num("GET", "/resolve/") == 0, "what did not change is not fetched again"


def test_a_model_of_an_object_store_without_s3fs_is_one_sentence_and_the_command_that_mends_it(
    cache: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    result = run("models", "pull", "s3://bucket/tiny")
    assert (result.status, result.out) == (2, "")
    assert result.err.endswith(
        "s3:// models need s3fs, which is not installed.\n\nhint: `pip install 'ironloom[s3]'` installs it.\n"
    )
    assert list(cache.glob("**/bucket*")) == []


@pytest.mark.parametrize("who", ["service", "run"])
def test_rm_leaves_a_model_in_use_and_names_who_has_it(who: str, hub: FakeHub, fake: FakeControl, run: Run) -> None:
    run("models", "pull", "acme/tiny")
    if who == "service":
        fake.services = {"chat": service(model={"uri": "hf://acme/tiny", "note": None})}
    else:
        fake.runs = {"chat": run_of("chat", model="acme/tiny")}
    result = run("models", "rm", "acme/tiny")
    assert (result.status, result.out) == (1, "")
    assert result.err == "hf://acme/tiny is in use by chat.\n\nhint: `ironloom delete chat` ends that first.\n"
    assert "hf://acme/tiny" in run("models", "list").out
    if who == "service":
        del fake.services["chat"]
    else:
        fake.runs["chat"]["state"] = "succeeded"
    assert run("models", "rm", "acme/tiny").out.startswith("hf://acme/tiny removed, ")
    assert run("models", "list").out == ""
