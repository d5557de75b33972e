"""hf:// models, through huggingface_hub into its own cache, so that what one program fetched every other finds.

What is done beyond `snapshot_download`, and why (huggingface_hub 2.4, read 2026-11-24): it checks a plain download's
length only, and a process that dies loses the file it was at. Here every file is hashed against the hub's listing
before it gets its name, and goes on where it stopped. Above 50 GB, and with HF_XET_HIGH_PERFORMANCE, huggingface_hub
fetches by itself over Xet; the hash is then checked after.
HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE mean what they mean there.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from ironloom.errors import ModelRefused
from ironloom.serve.models.cache import require_space
from ironloom.serve.models.hub_errors import TryAgain, translated
from ironloom.serve.models.hub_file import FileJob, HubFile, partial_of
from ironloom.serve.models.progress import Progress, Report
from ironloom.serve.models.selection import select_files
from ironloom.serve.models.source import ModelSource
from ironloom.units import format_bytes

NUM_WORKERS = 4
REPORT_EVERY_S = 0.5
MAX_ASKS = 4
"""How often the listing is asked for when the hub answers 429 or 5xx."""
MAX_WAIT_S = 30.0
STALE_S = 3600.0
"""A partial file that no other program wrote to for so long was left by one that died."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True, slots=True)
class HubSettings:
    """The hub's own environment variables, read without importing huggingface_hub (0.3 s)."""

    cache_dir: Path
    endpoint: str | None = None
    offline: bool = False

    @property
    def at(self) -> str:
        """The hub, as messages name it."""
        return self.endpoint or "the hub"


@dataclass(frozen=True, kw_only=True, slots=True)
class HubModel:
    """A model in the hub's cache."""

    folder: Path
    commit: str
    files: tuple[HubFile, ...]


def hub_settings(environ: Mapping[str, str] = os.environ) -> HubSettings:
    """Source: https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables"""
    home = environ.get("HF_HOME") or os.path.join(environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")  # noqa: PTH118
    cache = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")  # noqa: PTH118
    offline = environ.get("HF_HUB_OFFLINE") or environ.get("TRANSFORMERS_OFFLINE") or ""
    return HubSettings(
        cache_dir=Path(os.path.expandvars(cache)).expanduser(),
        endpoint=environ.get("HF_ENDPOINT") or None,
        offline=offline.upper() in {"1", "ON", "YES", "TRUE"},
    )


def find_snapshot(source: ModelSource, settings: HubSettings) -> Path | None:
    """The folder of this revision in the hub's cache, whole or not; None when there is none. Asks no network."""
    repo_folder = _repo_folder(source.repo, settings)
    revision = source.revision or "main"
    commit = revision
    if _COMMIT.fullmatch(revision) is None:
        try:
            commit = (repo_folder / "refs" / revision).read_text().strip()
        except OSError:
            return None
    folder = repo_folder / "snapshots" / commit
    return folder if _COMMIT.fullmatch(commit) and folder.is_dir() else None


def fetch(
    source: ModelSource,
    settings: HubSettings,
    report: Report,
    *,
    own_code: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> HubModel:
    """Fetch what is missing of a model. Blocks; idempotent; the caller holds the model's lock.

    Raises ModelNotFound, ModelRefused, ModelCorrupt, DiskFull, or ModelError when the hub cannot be reached.
    """
    report(Progress(phase="pulling", message=f"asking the hub for {source.repo}"))
    commit, listing = _listing(source, settings, sleep)
    names = select_files(listing.keys(), repo=source.repo, gguf=source.file, own_code=own_code)
    files = tuple(listing[name] for name in names)
    repo_folder = _repo_folder(source.repo, settings)
    blobs = repo_folder / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    _tidy(blobs, files)
    _require_space(blobs, files, source)
    _fetch_all(source, settings, commit, files, report)
    _write_ref(repo_folder, source.revision or "main", commit)
    return HubModel(folder=repo_folder / "snapshots" / commit, commit=commit, files=files)


def forget_commit(snapshot: Path, commit: str) -> int:
    """Remove one commit of a repository from the hub's cache, keeping files that other commits share.

    Returns the bytes given back.
    """
    from huggingface_hub import scan_cache_dir

    while snapshot.parent.name != "snapshots" and snapshot != snapshot.parent:
        snapshot = snapshot.parent
    cache_dir = snapshot.parent.parent.parent
    if not snapshot.is_dir():
        return 0
    strategy = scan_cache_dir(cache_dir).delete_revisions(commit)
    strategy.execute()
    return int(strategy.expected_freed_size)


def _repo_folder(repo: str, settings: HubSettings) -> Path:
    return settings.cache_dir / f"models--{repo.replace('/', '--')}"


def _listing(
    source: ModelSource, settings: HubSettings, sleep: Callable[[float], None]
) -> tuple[str, dict[str, HubFile]]:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=settings.endpoint, library_name="ironloom")

    def ask() -> tuple[str, dict[str, HubFile]]:
        info = api.model_info(source.repo, revision=source.revision or None, files_metadata=True)
        files = {}
        for sibling in info.siblings or ():
            digest = sibling.lfs.sha256 if sibling.lfs is not None else sibling.blob_id
            if sibling.size is not None and digest:
                files[sibling.rfilename] = HubFile(name=sibling.rfilename, size_bytes=sibling.size, digest=digest)
        if info.sha is None or not files:
            raise ModelRefused(f"the hub lists no files for {source.repo}")
        return info.sha, files

    for attempt in range(MAX_ASKS):
        try:
            return translated(ask, source, settings.at)
        except TryAgain as again:
            if attempt == MAX_ASKS - 1:
                raise again.error from again
            sleep(min(MAX_WAIT_S, again.wait_s if again.wait_s is not None else 2.0**attempt))
    raise AssertionError("unreachable")


def _tidy(blobs: Path, files: tuple[HubFile, ...]) -> None:
    """Remove blobs of a wrong length, and partial files that a program left when it was killed."""
    digests = {file.digest: file for file in files}
    for path in blobs.iterdir():
        digest, _, rest = path.name.partition(".")
        file = digests.get(digest)
        if file is None:
            continue
        if not rest and path.is_file() and path.stat().st_size != file.size_bytes:
            path.unlink()
        elif rest.endswith("incomplete") and path != partial_of(blobs, file):
            try:
                if time.time() - path.stat().st_mtime > STALE_S:
                    path.unlink()
            except FileNotFoundError:
                continue


def _require_space(blobs: Path, files: tuple[HubFile, ...], source: ModelSource) -> None:
    missing = 0
    for file in files:
        if not (blobs / file.digest).exists():
            partial = partial_of(blobs, file)
            missing += file.size_bytes - (partial.stat().st_size if partial.exists() else 0)
    require_space(blobs, missing, f"{source.uri} ({format_bytes(sum(file.size_bytes for file in files))})")


def _fetch_all(
    source: ModelSource, settings: HubSettings, commit: str, files: tuple[HubFile, ...], report: Report
) -> None:
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()  # this program shows its own, for the whole model
    blobs = _repo_folder(source.repo, settings) / "blobs"
    total_bytes = sum(file.size_bytes for file in files)
    stop = threading.Event()

    def one(file: HubFile) -> None:
        job = FileJob(
            repo=source.repo,
            commit=commit,
            file=file,
            cache_dir=settings.cache_dir,
            blobs=blobs,
            endpoint=settings.endpoint,
            stop=stop,
        )
        translated(job.run, source, settings.at)

    with ThreadPoolExecutor(NUM_WORKERS, thread_name_prefix="pull") as pool:
        pending = {pool.submit(one, file) for file in sorted(files, key=lambda file: -file.size_bytes)}
        try:
            while pending:
                done, pending = wait(pending, timeout=REPORT_EVERY_S)
                for future in done:
                    future.result()
                done_bytes = sum(_bytes_there(blobs, file) for file in files)
                report(Progress(phase="pulling", message=source.uri, done_bytes=done_bytes, total_bytes=total_bytes))
        except TryAgain as again:
            raise again.error from again
        finally:
            stop.set()
            for future in pending:
                future.cancel()


def _bytes_there(blobs: Path, file: HubFile) -> int:
    for path in (blobs / file.digest, partial_of(blobs, file)):
        try:
            return min(path.stat().st_size, file.size_bytes)
        except FileNotFoundError:
            continue
    return max((path.stat().st_size for path in blobs.glob(f"{file.digest}.*.incomplete")), default=0)


def _write_ref(repo_folder: Path, revision: str, commit: str) -> None:
    """What the branch pointed to, where every program that reads the hub's cache looks for it."""
    if _COMMIT.fullmatch(revision):
        return
    ref = repo_folder / "refs" / revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    temporary = ref.with_name(f"{ref.name}.ironloom.{os.getpid()}")
    temporary.write_text(commit)
    temporary.replace(ref)
