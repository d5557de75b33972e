"""s3:// models, on a store of a few lines in the place of S3's filesystem."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.fakes.weights import config, safetensors_file

from ironloom.errors import DiskFull, ModelCorrupt, ModelError, ModelNotFound, ModelRefused, UsageError
from ironloom.serve.models import objectstore
from ironloom.serve.models.cache import list_models
from ironloom.serve.models.pull import locate, pull

URI = "s3://bucket/llama/tiny"
FILES = {"config.json": config(), "model.safetensors": safetensors_file({"a": (64, 64)}), "tokenizer.json": b"{}"}


class Store:
    """As much of a filesystem as is used, with faults to order."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = {f"bucket/llama/tiny/{name}": data for name, data in files.items()}
        self.etags: dict[str, str] = {}
        self.short: set[str] = set()
        self.broken: set[str] = set()
        self.opened: list[str] = []

    def find(self, path: str, *, detail: bool) -> dict[str, dict[str, Any]]:
        assert detail
        return {
            key: {"size": len(data), "ETag": self.etags.get(key, f'"{_md5(data)}"')}
            for key, data in self.files.items()
            if key.startswith(f"{path}/")
        }

    def open(self, key: str, mode: str, block_size: int) -> Any:
        import io

        self.opened.append(key.rpartition("/")[2])
        if any(key.endswith(name) for name in self.broken):
            raise ConnectionResetError("reset")
        data = self.files[key]
        return io.BytesIO(data[:-1] if any(key.endswith(name) for name in self.short) else data)


def _md5(data: bytes) -> str:
    import hashlib

    return hashlib.md5(data).hexdigest()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    made = Store({**FILES, "pytorch_model.bin": b"x"})
    monkeypatch.setattr(objectstore, "_open_store", lambda: made)
    return made


def test_a_prefix_is_fetched_whole(store: Store, tmp_path: Path) -> None:
    model = pull(URI, cache_dir=tmp_path)
    assert {path.name: path.read_bytes() for path in model.path.glob("[!.]*")} == FILES
    assert locate(URI, cache_dir=tmp_path) == model
    assert list_models(tmp_path)[0].model == model
    assert "pytorch_model.bin" not in store.opened


def test_a_try_that_failed_keeps_whole_files(store: Store, tmp_path: Path) -> None:
    store.broken = {"tokenizer.json"}
    with pytest.raises(ModelError, match=r"tokenizer\.json of .* could not be fetched"):
        pull(URI, cache_dir=tmp_path)
    assert locate(URI, cache_dir=tmp_path) is None
    store.broken = set()
    store.opened.clear()
    pull(URI, cache_dir=tmp_path)
    assert store.opened == ["tokenizer.json"]


def test_a_file_that_changed_in_between_is_fetched_again(store: Store, tmp_path: Path) -> None:
    store.broken = {"tokenizer.json"}
    with pytest.raises(ModelError):
        pull(URI, cache_dir=tmp_path)
    store.broken = set()
    changed = safetensors_file({"b": (64, 64)})
    store.files["bucket/llama/tiny/model.safetensors"] = changed
    assert (pull(URI, cache_dir=tmp_path).path / "model.safetensors").read_bytes() == changed


def test_wrong_bytes_are_refused(store: Store, tmp_path: Path) -> None:
    store.etags["bucket/llama/tiny/config.json"] = f'"{"0" * 32}"'
    with pytest.raises(ModelCorrupt, match=r"config\.json of .* has the MD5"):
        pull(URI, cache_dir=tmp_path)
    store.etags.clear()
    store.short = {"tokenizer.json"}
    with pytest.raises(ModelCorrupt, match="1 of its 2 bytes"):
        pull(URI, cache_dir=tmp_path)
    assert locate(URI, cache_dir=tmp_path) is None


def test_a_damaged_model_in_the_store_is_refused_and_not_kept(store: Store, tmp_path: Path) -> None:
    store.files["bucket/llama/tiny/model.safetensors"] = FILES["model.safetensors"][:-4]
    with pytest.raises(ModelCorrupt, match="should have"):
        pull(URI, cache_dir=tmp_path)
    assert locate(URI, cache_dir=tmp_path) is None


def test_nothing_there_and_pickles_alone(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no objects"):
        pull("s3://bucket/none", cache_dir=tmp_path)
    store.files = {"bucket/llama/tiny/pytorch_model.bin": b"x"}
    with pytest.raises(ModelRefused, match="pickles alone"):
        pull(URI, cache_dir=tmp_path)


class NoCredentialsError(Exception):
    """As botocore's: no OSError."""


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError("Access Denied"), "s3://bucket/llama/tiny may not be listed: Access Denied"),
        (NoCredentialsError("Unable to locate\ncredentials"), "could not be listed: Unable to locate credentials"),
        (ValueError("Invalid endpoint: nonsense"), "could not be listed: Invalid endpoint: nonsense"),
        (TimeoutError(), "could not be listed: TimeoutError"),
    ],
)
def test_a_store_that_cannot_be_listed_is_told_in_one_sentence_with_its_settings(
    error: Exception, told: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(store, "find", find)
    with pytest.raises(ModelError) as caught:
        pull(URI, cache_dir=tmp_path)
    assert str(caught.value).endswith(told)
    assert "AWS_ENDPOINT_URL" in (caught.value.hint or "")


def test_a_store_that_breaks_off_with_an_error_of_its_own_is_told(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise NoCredentialsError("the token has expired.")

    monkeypatch.setattr(store, "open", broken)
    with pytest.raises(ModelError, match="could not be fetched: the token has expired"):
        pull(URI, cache_dir=tmp_path)


def test_without_s3fs_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import fsspec

    def absent(_: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", absent)
    with pytest.raises(UsageError) as caught:
        pull(URI, cache_dir=tmp_path)
    assert "ironloom[s3]" in (caught.value.hint or "")


def test_a_full_disk_is_seen_before_the_download(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    with pytest.raises(DiskFull, match=r"s3://bucket/llama/tiny needs .* more; the disk of .* has 9\.8 KiB free"):
        pull(URI, cache_dir=tmp_path)
    assert store.opened == []
