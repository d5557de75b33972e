"""Models of this machine, the cache's own bookkeeping, and the child program's lines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.fakes.weights import config, gguf_file, safetensors_file

from ironloom.errors import IronloomError, ModelCorrupt, ModelError, ModelNotFound, UsageError
from ironloom.serve.engines.base import Conversion, LocalModel
from ironloom.serve.models import cache, prepare
from ironloom.serve.models.cache import FileRecord, converted_dir, find_record, list_models, remove, write_record
from ironloom.serve.models.convert import run_conversion
from ironloom.serve.models.inspect import inspect_model
from ironloom.serve.models.prepare_lines import decode_line, encode_line
from ironloom.serve.models.progress import Progress
from ironloom.serve.models.pull import locate, pull


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "claim/llama"
    path.mkdir(parents=True)
    (path / "config.json").write_bytes(config())
    (path / "model.safetensors").write_bytes(safetensors_file())
    return path


def test_a_folder_is_taken_where_it_is(folder: Path, tmp_path: Path) -> None:
    for uri in (str(folder), f"file://{folder}"):
        assert pull(uri, cache_dir=tmp_path / "cache").path == folder
        assert locate(uri, cache_dir=tmp_path / "cache").path == folder
    assert list_models(tmp_path / "cache") == []


def test_a_claim_is_a_folder_that_was_given_for_it(folder: Path, tmp_path: Path) -> None:
    claims = {"models": tmp_path / "claim"}
    assert pull("pvc://models/llama", cache_dir=tmp_path, pvc=claims).path == folder
    with pytest.raises(UsageError, match=r'claim "other".*folders are given for models') as caught:
        pull("pvc://other/llama", cache_dir=tmp_path, pvc=claims)
    assert "--pvc other=" in (caught.value.hint or "")


def test_a_claim_cannot_lead_out_of_its_folder(folder: Path, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(folder)
    with pytest.raises(UsageError, match="leads out"):
        pull("pvc://models/link", cache_dir=tmp_path, pvc={"models": inside})


def test_a_model_with_a_file_missing_or_of_another_size_is_not_found(folder: Path, tmp_path: Path) -> None:
    model = inspect_model(folder, "hf://a/b")
    files = {path.name: FileRecord(size=path.stat().st_size) for path in folder.iterdir()}
    write_record(tmp_path, model, folder, files)
    assert find_record(tmp_path, "hf://a/b").model() == model
    (folder / "config.json").write_bytes(b"{}")
    assert find_record(tmp_path, "hf://a/b") is None
    assert list_models(tmp_path) == []


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff", b'{"uri": 3}'])
def test_a_damaged_record_is_no_record(folder: Path, tmp_path: Path, damage: bytes) -> None:
    write_record(tmp_path, inspect_model(folder, "hf://a/b"), folder, {})
    (tmp_path / "models" / f"{cache.key_of('hf://a/b')}.json").write_bytes(damage)
    assert find_record(tmp_path, "hf://a/b") is None
    assert list_models(tmp_path) == []


def test_keys_of_different_names_differ() -> None:
    assert len({cache.key_of(uri) for uri in ("hf://a/b", "hf://a/b:main", "hf://a-b/c", "hf://a/b-c")}) == 4


def test_the_place_of_converted_forms_changes_with_the_bytes(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(gguf_file())
    before = converted_dir(tmp_path, inspect_model(file, "hf://a/b"))
    file.write_bytes(gguf_file(tensors={"b": ("F32", (4,))}))
    after = converted_dir(tmp_path, inspect_model(file, "hf://a/b"))
    assert before != after
    assert before.parent == after.parent
    after.mkdir(parents=True)
    (after / "form.bin").write_bytes(bytes(100))
    assert remove(tmp_path, "hf://a/b") == 100
    with pytest.raises(ModelNotFound):
        remove(tmp_path, "hf://a/b")


def test_a_converted_form_of_a_model_elsewhere_is_listed_and_removed_without_the_model(
    folder: Path, tmp_path: Path
) -> None:
    found = inspect_model(folder, str(folder))
    write_record(tmp_path, found, folder, {})
    assert list_models(tmp_path) == []
    form = converted_dir(tmp_path, found)
    form.mkdir(parents=True)
    (form / "form.bin").write_bytes(bytes(50))
    assert [(cached.model.uri, cached.size_bytes) for cached in list_models(tmp_path)] == [(str(folder), 50)]
    assert remove(tmp_path, str(folder)) == 50
    assert (folder / "model.safetensors").is_file()
    assert list_models(tmp_path) == []


@pytest.mark.parametrize(
    "said",
    [
        Progress(phase="pulling", message="a", done_bytes=1, total_bytes=2),
        ModelCorrupt("bad", hint="fetch it again"),
        UsageError("no"),
    ],
)
def test_lines_are_read_as_they_were_said(said: Progress | IronloomError) -> None:
    read = decode_line(encode_line(said))
    assert type(read) is type(said)
    if isinstance(said, IronloomError):
        assert isinstance(read, IronloomError)
        assert (read.message, read.hint) == (said.message, said.hint)
    else:
        assert read == said


def test_a_librarys_chatter_is_no_line() -> None:
    assert decode_line(b"Downloading shards: 100%\n") is None
    assert decode_line(b'"text"') is None


def test_the_child_program_ends_with_the_model_or_the_error(folder: Path, tmp_path: Path) -> None:
    def run(uri: str) -> tuple[int, LocalModel | Progress | IronloomError | None]:
        args = prepare.arguments(uri, tmp_path / "cache", pvc={"models": tmp_path / "claim"})
        command = [sys.executable, "-m", prepare.MODULE, *args]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        return done.returncode, decode_line(done.stdout.splitlines()[-1])

    status, model = run("pvc://models/llama")
    assert status == 0
    assert isinstance(model, LocalModel)
    assert model.path == folder
    status, error = run("pvc://models/none")
    assert status == 1
    assert isinstance(error, ModelNotFound)


CONVERTER = """
import json, pathlib, sys
print(json.dumps({"message": "halfway", "done_bytes": 1, "total_bytes": 2}), flush=True)
print("chatter")
if sys.argv[2] == "fail":
    sys.exit("it went wrong")
pathlib.Path(sys.argv[1]).write_text("done")
"""


def conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, requires: tuple[str, ...] = ()) -> Conversion:
    (tmp_path / "a_converter.py").write_text(CONVERTER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = tmp_path / "converted/form"
    return Conversion(
        description="turns a into b", module="a_converter", args=(str(result), how), result=result, requires=requires
    )


def test_a_conversion_runs_once_and_tells_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = conversion(tmp_path, monkeypatch, "work")
    seen: list[Progress] = []
    run_conversion(step, tmp_path, seen.append)
    assert step.result.read_text() == "done"
    assert seen[-1] == Progress(phase="converting", message="halfway", done_bytes=1, total_bytes=2)
    seen.clear()
    run_conversion(step, tmp_path, seen.append)
    assert seen == []


def test_a_conversion_that_fails_says_its_last_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"turns a into b failed with exit status 1; its last lines:\nit went wrong"):
        run_conversion(conversion(tmp_path, monkeypatch, "fail"), tmp_path, lambda _: None)


def test_a_conversion_without_its_distribution_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = conversion(tmp_path, monkeypatch, "work", requires=("no-such-distribution",))
    with pytest.raises(IronloomError, match="needs no-such-distribution"):
        run_conversion(step, tmp_path, lambda _: None)
