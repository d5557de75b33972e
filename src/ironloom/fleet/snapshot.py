"""Files of Kubernetes objects into a Fleet: what `kubectl get … -o json` or `ironloom snapshot` wrote.

JSON is streamed object by object; YAML too, and gzip of either. Several files are one fleet.
"""

from __future__ import annotations

import codecs
import gzip
import io
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from ironloom.errors import ManifestError
from ironloom.fleet import objects
from ironloom.fleet.build import Builder
from ironloom.fleet.collection import no_collection
from ironloom.fleet.model import Fleet
from ironloom.fleet.objects import FleetObject, group_of
from ironloom.fleet.queues import texts
from ironloom.fleet.split import Head, split
from ironloom.fleet.yaml_objects import read_yaml

if TYPE_CHECKING:
    Stream = io.BufferedReader[Any]

STDIN = "-"
TAKEN_AT = "ironloom.dev/taken-at"
NAME = "ironloom.dev/fleet"
VERSION = "ironloom.dev/server-version"
KINDS_SERVED = "ironloom.dev/kinds-served"
KINDS_LISTED = "ironloom.dev/kinds-listed"
"""Annotations in the metadata of a snapshot's list: what is known of the cluster and stands in no object of it."""
_GZIP = b"\x1f\x8b"
_UTF16_HINT = "PowerShell's > writes UTF-16: use `| Out-File -Encoding utf8 FILE`"
_HINT = "Take the objects with `kubectl get nodes,pods,… -A -o json`, or with `ironloom snapshot`"


def read_snapshot(paths: Sequence[str | Path], *, levels: Sequence[str] = (), name: str = "") -> Fleet:
    """The fleet that these files hold together; `-` is standard input. `levels` are node labels, coarse to fine.

    Raises ManifestError, with the file, for one that is none or holds no Kubernetes object, UsageError for a label of
    `levels` that no node has.
    """
    source = ", ".join(str(path) for path in paths)
    stem = Path(paths[0]).name.split(".")[0] if paths and str(paths[0]) != STDIN else ""
    reading = _Reading(Builder(name=name or stem or "fleet", source=source))
    with no_collection(stays=True):
        for path in paths:
            reading.read(path)
        said = reading.said
        fleet = reading.builder.fleet(
            levels=levels,
            taken_at=said.get(TAKEN_AT, ""),
            version=said.get(VERSION, ""),
            kinds_served=said[KINDS_SERVED].split(",") if said.get(KINDS_SERVED) else None,
            name=name or said.get(NAME, ""),
        )
    if not fleet.nodes:
        raise ManifestError(
            "there is no Node in it", hint="A fleet begins with its nodes: `kubectl get nodes,pods,… -A -o json`",
            file=source,
        )  # fmt: skip
    return fleet


class _Reading:
    """What has been read so far."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self.said: dict[str, str] = {}
        """What the lists say in their annotations."""
        self._num_seen = 0
        """Objects and lists of the file that is being read."""

    def read(self, path: str | Path) -> None:
        file = "<stdin>" if str(path) == STDIN else str(path)
        self._num_seen = 0
        try:
            with _opened(path) as stream:
                for obj in self._objects(stream, file):
                    self._num_seen += 1
                    self.builder.add(obj, file=file)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ManifestError(f"its gzip is cut off or damaged: {error}", hint=_HINT, file=file) from error
        except OSError as error:
            raise ManifestError(f"it cannot be read: {error.strerror or error}", file=file) from error
        if not self._num_seen:
            raise ManifestError("there is no Kubernetes object in it", hint=_HINT, file=file)

    def _objects(self, stream: Stream, file: str) -> Iterator[FleetObject]:
        if stream.peek(3)[:3] == codecs.BOM_UTF8:
            stream.read(3)
        start = stream.peek(512)
        if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise ManifestError("it is UTF-16, and must be UTF-8", hint=_UTF16_HINT, file=file)
        first = start.lstrip()[:1]
        if not first and len(start) < 512:
            raise ManifestError("it is empty", hint=_HINT, file=file)
        return self._json(stream, file) if first in (b"{", b"[") else read_yaml(stream, file=file)

    def _json(self, stream: Stream, file: str) -> Iterator[FleetObject]:
        beginning, own = b"{}", objects.decode_named  # of the object before: those of a kind follow one another

        def decode(raw: bytes, head: Head) -> FleetObject:
            nonlocal beginning, own
            try:
                if raw.startswith(beginning):
                    return own(raw)
                found = objects.decoder_of(raw)
                if found is not None:
                    beginning, own = found
                    return own(raw)
                return objects.decode(raw, api_version=head.api_version, kind=head.item_kind)
            except (msgspec.ValidationError, RecursionError, UnicodeDecodeError) as error:
                raise objects.refused(error, file, raw) from error

        return split(stream.read, decode, file=file, on_list=self._hear)

    def _hear(self, head: Head) -> None:
        self._num_seen += 1
        if head.item_kind:
            self.builder.listed(f"{group_of(head.api_version)}/{head.item_kind}")
        annotations = texts(head.metadata.get("annotations"))
        self.said.update(annotations)
        for kind in annotations.get(KINDS_LISTED, "").split(","):
            if kind:
                self.builder.listed(kind)


@contextmanager
def _opened(path: str | Path) -> Iterator[Stream]:
    with Path(path).open("rb") if str(path) != STDIN else _stdin() as raw:
        if raw.peek(2)[:2] == _GZIP:
            with gzip.open(raw) as unpacked:
                # gzip's own buffer can be peeked into and reads whole sizes, as a file's does.
                yield cast("Stream", unpacked)
        else:
            yield raw


@contextmanager
def _stdin() -> Iterator[Stream]:
    buffered: Stream = io.BufferedReader(cast("Any", sys.stdin.buffer))
    try:
        yield buffered
    finally:
        buffered.detach()  # it is not ours to close
