"""s3:// models, through fsspec (the extra `s3`): listed, fetched file by file, hashed, renamed into place when whole.

Credentials and endpoints are fsspec's and s3fs's own (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, profiles, …).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ironloom.errors import ModelCorrupt, ModelError, ModelNotFound, UsageError
from ironloom.serve.models.cache import FileRecord, require_space, sync_folder, write_whole
from ironloom.serve.models.progress import Progress, Report
from ironloom.serve.models.selection import select_files
from ironloom.serve.models.source import ModelSource
from ironloom.units import MIB

MANIFEST = ".ironloom-files.json"
"""In the model's folder: each file with size and SHA-256. A folder that has it is whole."""
CHUNK_BYTES = 8 * MIB
SETTINGS_HINT = (
    "AWS_ENDPOINT_URL says where the store is; AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, who asks"
)
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    name: str
    """Relative to the prefix."""
    key: str
    size_bytes: int
    etag: str
    """As the store gives it; the MD5 of an object that was uploaded in one part."""


def fetch_objects(
    source: ModelSource, folder: Path, partial: Path, report: Report, *, own_code: bool = False
) -> dict[str, FileRecord]:
    """Fill `folder` with the model under the prefix; it appears whole or not at all.

    Files that an earlier try left whole in `partial` are kept if the store still has them as they were.
    Raises UsageError without s3fs, ModelNotFound, ModelRefused, ModelCorrupt, DiskFull, ModelError.
    """
    store = _open_store()
    files = _listing(store, source, own_code=own_code)
    partial.mkdir(parents=True, exist_ok=True)
    _drop_others(partial / "whole", {file.name for file in files})
    total_bytes = sum(file.size_bytes for file in files)
    fetched = {file.name: record for file in files if (record := _fetched(partial, file)) is not None}
    done_bytes = sum(file.size_bytes for file in files if file.name in fetched)
    require_space(partial, total_bytes - done_bytes, source.uri)
    for file in files:
        if file.name in fetched:
            continue

        def tell(num_bytes: int, before: int = done_bytes) -> None:
            done = before + num_bytes
            report(Progress(phase="pulling", message=source.uri, done_bytes=done, total_bytes=total_bytes))

        fetched[file.name] = _fetch(store, source, file, partial, tell)
        done_bytes += file.size_bytes
    whole = partial / "whole"
    write_whole(whole / MANIFEST, msgspec.json.encode(fetched))
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    whole.replace(folder)
    sync_folder(folder.parent)
    shutil.rmtree(partial, ignore_errors=True)
    return fetched


def _drop_others(folder: Path, names: set[str]) -> None:
    """Remove what an earlier try fetched and the store no longer lists."""
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in names:
            path.unlink()


def _open_store() -> Any:
    try:
        import fsspec

        return fsspec.filesystem("s3")
    except ImportError as error:
        raise UsageError(
            "s3:// models need s3fs, which is not installed", hint="`pip install 'ironloom[s3]'` installs it"
        ) from error


def _listing(store: Any, source: ModelSource, *, own_code: bool) -> list[RemoteFile]:
    try:
        found: dict[str, dict[str, Any]] = store.find(source.path, detail=True)
    except PermissionError as error:
        raise ModelError(f"{source.uri} may not be listed: {_said(error)}", hint=SETTINGS_HINT) from error
    except FileNotFoundError:
        found = {}
    except Exception as error:  # botocore's own (no credentials, no endpoint) are no OSError and share no base with it
        raise ModelError(f"{source.uri} could not be listed: {_said(error)}", hint=SETTINGS_HINT) from error
    prefix = f"{source.path}/"
    files = {}
    for key, info in found.items():
        path = key.lstrip("/")
        name = path.removeprefix(prefix) if path.startswith(prefix) else path.rpartition("/")[2]
        if ".." in name.split("/"):
            raise ModelError(f'{source.uri} has the key "{key}", which leaves its prefix')
        etag = str(info.get("ETag") or info.get("etag") or "")
        files[name] = RemoteFile(name=name, key=key, size_bytes=int(info["size"]), etag=etag)
    if not files:
        raise ModelNotFound(f"there are no objects under {source.uri}")
    return [files[name] for name in select_files(files.keys(), repo=source.uri, own_code=own_code)]


def _said(error: Exception) -> str:
    """An error of the store in one line; one without words has its kind."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


class _Done(msgspec.Struct, frozen=True):
    """Written beside a whole file of a try that is not over."""

    size: int
    etag: str
    sha256: str


_decode_done = msgspec.json.Decoder(_Done).decode


def _fetched(partial: Path, file: RemoteFile) -> FileRecord | None:
    path = partial / "whole" / file.name
    try:
        done = _decode_done(_mark(partial, file).read_bytes())
        if path.stat().st_size == file.size_bytes == done.size and file.etag and done.etag == file.etag:
            return FileRecord(size=done.size, sha256=done.sha256)
    except (OSError, msgspec.DecodeError):
        return None
    return None


def _mark(partial: Path, file: RemoteFile) -> Path:
    return partial / "done" / f"{hashlib.sha256(file.name.encode()).hexdigest()[:16]}.json"


def _fetch(store: Any, source: ModelSource, file: RemoteFile, partial: Path, tell: Any) -> FileRecord:
    target = partial / "whole" / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    num_bytes = 0
    try:
        with store.open(file.key, "rb", block_size=CHUNK_BYTES) as opened, target.open("wb") as sink:
            while chunk := opened.read(CHUNK_BYTES):
                sha256.update(chunk)
                md5.update(chunk)
                num_bytes += sink.write(chunk)
                tell(num_bytes)
            sink.flush()
            os.fsync(sink.fileno())
    except Exception as error:  # as above
        raise ModelError(
            f"{file.name} of {source.uri} could not be fetched: {_said(error)}", hint="whole files are kept; try again"
        ) from error
    if num_bytes != file.size_bytes:
        raise ModelCorrupt(f"{file.name} of {source.uri} came with {num_bytes} of its {file.size_bytes} bytes")
    plain = _MD5.fullmatch(file.etag)
    if plain is not None and md5.hexdigest() != plain[1]:
        raise ModelCorrupt(f"{file.name} of {source.uri} has the MD5 {md5.hexdigest()}; the store says {plain[1]}")
    done = _Done(size=num_bytes, etag=file.etag, sha256=sha256.hexdigest())
    write_whole(_mark(partial, file), msgspec.json.encode(done))
    return FileRecord(size=num_bytes, sha256=done.sha256)
