"""One file of a hub repository: fetched, hashed, put in its place in the hub's cache, linked from its snapshot."""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ironloom.errors import ModelCorrupt
from ironloom.serve.models.cache import sync_folder
from ironloom.serve.models.hub_errors import is_network_error
from ironloom.units import GB, MIB

MAX_PLAIN_BYTES = 50 * GB
"""The hub serves no larger file over plain HTTP (huggingface_hub's MAX_HTTP_DOWNLOAD_SIZE)."""
MAX_TRIES = 5
"""Tries in a row that bring not a byte."""
RETRY_WAIT_S = 1.0
"""Times the number of tries that brought nothing."""
TIMEOUT_S = 20.0
"""Without a byte for so long a connection is given up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HubFile:
    """A file as the hub lists it."""

    name: str
    size_bytes: int
    digest: str
    """SHA-256 (64 hex digits) of a large file, git's blob SHA-1 (40) of a small one; the hub's cache names it so."""


class Stopped(Exception):
    """Another file failed, or the user gave up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileJob:
    """A file to fetch. `run` blocks, and is safe to call again."""

    repo: str
    commit: str
    file: HubFile
    cache_dir: Path
    """The hub's cache (not ours)."""
    blobs: Path
    """The repository's blobs in it."""
    endpoint: str | None
    stop: threading.Event

    def run(self) -> None:
        """Raises ModelCorrupt when the bytes are wrong twice, Stopped, and what huggingface_hub raises."""
        xet_wanted = os.environ.get("HF_XET_HIGH_PERFORMANCE", "").upper() in {"1", "ON", "YES", "TRUE"}
        if self.file.size_bytes <= MAX_PLAIN_BYTES and not xet_wanted:
            self._fetch_resumable()
        was_there = (self.blobs / self.file.digest).exists()
        path = self._link(force=False)
        if was_there or digest_of(path, self.file.digest) == self.file.digest:
            return
        path = self._link(force=True)
        found = digest_of(path, self.file.digest)
        if found != self.file.digest:
            path.resolve().unlink()
            path.unlink(missing_ok=True)
            raise self._corrupt(found)

    def _fetch_resumable(self) -> None:
        """The blob, resumed where an earlier try stopped; hashed whole before it gets its name."""
        wanted, blob = self.file, self.blobs / self.file.digest
        if blob.exists():
            return
        partial = partial_of(self.blobs, wanted)
        found = ""
        for _ in range(2):
            with partial.open("ab") as sink:
                if sink.tell() > wanted.size_bytes:
                    sink.truncate(0)
                self._download(sink)
                sink.flush()
                os.fsync(sink.fileno())
            found = digest_of(partial, wanted.digest)
            if found == wanted.digest:
                partial.replace(blob)
                sync_folder(self.blobs)
                return
            partial.unlink()  # the resumed part may be to blame: once more, from the start
        raise self._corrupt(found)

    def _download(self, sink: BinaryIO) -> None:
        """Append what is missing. Goes on after a lost connection, gives up after MAX_TRIES that brought nothing.

        huggingface_hub's own `http_get` reads in pieces of 10 MB and loses the last one with the connection.
        """
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils._headers import build_hf_headers
        from huggingface_hub.utils._http import hf_raise_for_status, http_stream_backoff

        url = hf_hub_url(self.repo, self.file.name, revision=self.commit, endpoint=self.endpoint)
        headers = {**build_hf_headers(library_name="ironloom"), "accept-encoding": "identity"}
        num_tries = 0
        while (have := sink.seek(0, os.SEEK_END)) < self.file.size_bytes:
            if have:
                headers["range"] = f"bytes={have}-"
            try:
                with http_stream_backoff(
                    "GET",
                    url,
                    headers=headers,
                    timeout=TIMEOUT_S,
                    retry_on_exceptions=(),  # a connection lost in the middle is ours to resume
                    retry_on_status_codes=(408, 429, 500, 502, 503, 504),
                ) as response:
                    hf_raise_for_status(response)
                    if have and response.status_code != 206:
                        sink.truncate(0)  # the server sends the file from its start
                    for piece in response.iter_raw():
                        if self.stop.is_set():
                            raise Stopped
                        sink.write(piece)
            except Exception as error:
                if not is_network_error(error):
                    raise
                sink.flush()
                num_tries = 0 if sink.seek(0, os.SEEK_END) > have else num_tries + 1
                if num_tries >= MAX_TRIES or self.stop.wait(num_tries * RETRY_WAIT_S):
                    raise
            else:
                if sink.seek(0, os.SEEK_END) != self.file.size_bytes:
                    return  # the wrong length is told by the digest
                num_tries = 0

    def _link(self, *, force: bool) -> Path:
        """The file in its snapshot; fetched by huggingface_hub itself where the blob is not there yet."""
        from huggingface_hub import hf_hub_download

        if self.stop.is_set():
            raise Stopped
        path: str = hf_hub_download(
            self.repo,
            self.file.name,
            revision=self.commit,
            cache_dir=self.cache_dir,
            endpoint=self.endpoint,
            library_name="ironloom",
            force_download=force,
        )
        return Path(path)

    def _corrupt(self, found: str) -> ModelCorrupt:
        return ModelCorrupt(
            f"{self.file.name} of {self.repo} came twice with other bytes than the hub lists "
            f"({found[:12]} in place of {self.file.digest[:12]})",
            hint="a proxy or a mirror may change it; check HF_ENDPOINT",
        )


def partial_of(blobs: Path, file: HubFile) -> Path:
    """Where a file grows until it is whole. The name is stable, so that another process goes on with it."""
    return blobs / f"{file.digest}.ironloom.incomplete"


def digest_of(path: Path, like: str) -> str:
    """The file's digest of the same kind as `like`: SHA-256 for 64 hex digits, else git's blob SHA-1."""
    with path.open("rb") as file:
        if len(like) == 64:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
        while chunk := file.read(MIB):
            digest.update(chunk)
    return digest.hexdigest()
