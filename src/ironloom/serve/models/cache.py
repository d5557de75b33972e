"""The model cache on disk. Everything in it is whole, or is not found.

    CACHE/
      models/KEY.json     a record: this URI is that folder, with these files; its mtime is when it was last used.
                          Without files it stands for a model elsewhere on the disk that has a converted form here
      files/KEY/          files of models that came from a package or an object store; renamed into place when whole
      partial/KEY/        what is being fetched; resumed or removed by the next pull, never used
      converted/KEY/      forms that an engine made of a model
      locks/KEY.lock      held (flock) while a model is fetched or removed; the kernel lets go when the holder dies

Models of the hub lie in the hub's own cache (HF_HOME), where every other program finds them too; here is their record.
KEY is the URI in a readable form with eight hex digits of its SHA-256.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import msgspec

from ironloom.errors import DiskFull, ModelError, ModelNotFound
from ironloom.serve.engines.base import LocalModel, ModelFormat, Task
from ironloom.units import format_bytes

LOCK_POLL_S = 0.2


class FileRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a model: its size, and its SHA-256 where that was known when it was fetched."""

    size: int
    sha256: str = ""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What the cache knows of one model."""

    uri: str
    path: Path
    format: ModelFormat
    architecture: str
    task: Task
    context_length: int | None
    size_bytes: int
    note: str | None
    form: str
    model_type: str
    own_code: str | None
    root: Path
    """The folder that `files` are relative to."""
    files: dict[str, FileRecord]
    commit: str = ""
    """The hub's commit; empty elsewhere."""
    pulled_at_s: float = 0.0
    """Wall clock."""

    def model(self) -> LocalModel:
        return LocalModel(**{name: getattr(self, name) for name in _MODEL_FIELDS})


_MODEL_FIELDS = tuple(LocalModel.__dataclass_fields__)


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedModel:
    """One line of `ironloom models list`."""

    model: LocalModel
    size_bytes: int
    """On disk, converted forms included."""
    last_used_s: float
    """Wall clock."""
    pulled_at_s: float


def default_cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """IRONLOOM_CACHE, or `ironloom` in XDG_CACHE_HOME (default ~/.cache)."""
    if named := environ.get("IRONLOOM_CACHE"):
        return Path(named).expanduser()
    return Path(environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ironloom"


def key_of(uri: str) -> str:
    """The URI as a file name: readable, and unique by its hash."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", uri.replace("://", "-")).strip("-.")[:80]
    return f"{readable}-{hashlib.sha256(uri.encode()).hexdigest()[:8]}"


def converted_dir(cache_dir: Path, model: LocalModel) -> Path:
    """Where forms that an engine made of this model belong; removed along with it, and when its bytes change."""
    stat = model.path.stat()
    newest_ns = stat.st_mtime_ns if model.path.is_file() else _newest_ns(model.path)
    stamp = hashlib.sha256(f"{model.path}\0{model.size_bytes}\0{newest_ns}".encode()).hexdigest()[:12]
    return cache_dir / "converted" / key_of(model.uri) / stamp


def _newest_ns(folder: Path) -> int:
    return max((file.stat().st_mtime_ns for file in folder.iterdir() if file.is_file()), default=0)


@contextmanager
def locked(cache_dir: Path, key: str, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold this model's lock; while another holds it, `waiting` is called once and the call sleeps."""
    path = cache_dir / "locks" / f"{key}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    waiting()
                    told = True
                time.sleep(LOCK_POLL_S)
        yield


def find_record(cache_dir: Path, uri: str) -> Record | None:
    """The model's record, if every one of its files is still there in its full size. Reads sizes only."""
    record = _read_record(cache_dir / "models" / f"{key_of(uri)}.json")
    if record is None or record.uri != uri:
        return None
    for name, wanted in record.files.items():
        try:
            if (record.root / name).stat().st_size != wanted.size:
                return None
        except OSError:
            return None
    return record


def touch_record(cache_dir: Path, uri: str) -> None:
    """Say that the model was used now."""
    try:
        os.utime(cache_dir / "models" / f"{key_of(uri)}.json")
    except OSError:
        return  # a cache that may only be read has no last use


def write_record(
    cache_dir: Path, model: LocalModel, root: Path, files: dict[str, FileRecord], commit: str = ""
) -> None:
    """Enter a whole model; the file appears at once or not at all."""
    record = Record(
        **{name: getattr(model, name) for name in _MODEL_FIELDS},
        root=root,
        files=files,
        commit=commit,
        pulled_at_s=time.time(),
    )
    write_whole(cache_dir / "models" / f"{key_of(model.uri)}.json", _encode(record))


def list_models(cache_dir: Path) -> list[CachedModel]:
    """Every whole model that was pulled into this cache, and every model elsewhere of which it has a converted form;
    most recently used first."""
    found = []
    for path in (cache_dir / "models").glob("*.json"):
        record = _read_record(path)
        if record is None or find_record(cache_dir, record.uri) is None:
            continue
        converted = _folder_bytes(cache_dir / "converted" / key_of(record.uri))
        if not record.files and not converted:
            continue
        found.append(
            CachedModel(
                model=record.model(),
                size_bytes=sum(file.size for file in record.files.values()) + converted,
                last_used_s=path.stat().st_mtime,
                pulled_at_s=record.pulled_at_s,
            )
        )
    return sorted(found, key=lambda cached: (-cached.last_used_s, cached.model.uri))


def remove(cache_dir: Path, uri: str, *, in_use: Mapping[str, str] = MappingProxyType({})) -> int:
    """Remove a model, its converted forms and what was fetched of it in part; returns the bytes given back.

    `in_use` says which services and runs have which models: URI → name. Raises ModelError for a model of these,
    ModelNotFound when the cache has none of it.
    """
    if (name := in_use.get(uri)) is not None:
        raise ModelError(f"{uri} is in use by {name}", hint=f"`ironloom delete {name}` ends that first")
    key = key_of(uri)
    with locked(cache_dir, key, waiting=lambda: None):
        path = cache_dir / "models" / f"{key}.json"
        record = _read_record(path)
        folders = [cache_dir / name / key for name in ("files", "partial", "converted")]
        if record is None and not any(folder.exists() for folder in folders):
            raise ModelNotFound(f"the cache {cache_dir} has no {uri}", hint="`ironloom models list` shows what it has")
        num_bytes = sum(map(_folder_bytes, folders))
        path.unlink(missing_ok=True)  # first, so that nobody finds a model that is half gone
        if record is not None and record.commit and not _others_hold(cache_dir, record):
            from ironloom.serve.models.hub import forget_commit

            num_bytes += forget_commit(record.root, record.commit)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
    return num_bytes


def _others_hold(cache_dir: Path, record: Record) -> bool:
    others = (_read_record(path) for path in (cache_dir / "models").glob("*.json"))
    return any(other is not None and other.root == record.root for other in others)


def require_space(folder: Path, num_bytes: int, what: str) -> None:
    """Raises DiskFull, with both numbers, when the disk under `folder` has less than that free."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < num_bytes:
        raise DiskFull(
            f"{what} needs {format_bytes(num_bytes)} more; the disk of {folder} has {format_bytes(free_bytes)} free",
            hint="free some: `ironloom models list` shows what the cache holds, `ironloom models rm` removes one",
        )


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file so that it appears whole or not at all, and stays after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in this folder last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Made at import, as every decoder here: two threads that describe a type to msgspec at once crash the process.
_decode = msgspec.json.Decoder(Record, dec_hook=lambda kind, value: kind(value)).decode


def _encode(record: Record) -> bytes:
    return msgspec.json.format(msgspec.json.encode(record, enc_hook=str))


def _read_record(path: Path) -> Record | None:
    """None for a record that is not there, damaged or of another version: the model is then fetched again."""
    try:
        return _decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return None


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
