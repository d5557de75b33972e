"""`ironloom snapshot`: what a fleet is read from, out of a live cluster or this machine into a file."""

from __future__ import annotations

import gzip
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile, SpooledTemporaryFile
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

import click

from ironloom.cli.cluster import objects_bar
from ironloom.cli.output import plural, result_option, say, tell
from ironloom.errors import UsageError
from ironloom.units import MIB, format_bytes

if TYPE_CHECKING:
    from ironloom.backends.kubernetes.discovery import Resource

SPOOLED_BYTES = 16 * MIB
"""Of one kind, in memory; what is more lies in a file without a name until the snapshot is written."""


@click.command()
@click.option("--context", metavar="NAME", help="The kubeconfig context of the cluster; this machine without it.")
@click.option("-n", "--namespace", metavar="NAME", help="Refused: a snapshot is of all namespaces.")
@click.option("--out", required=True, metavar="FILE", type=click.Path(dir_okay=False, path_type=Path),
              help="Where to; a name that ends in .gz is compressed.")  # fmt: skip
@result_option
def snapshot(context: str | None, namespace: str | None, out: Path, output: str) -> None:
    """Write the objects of a cluster, or of this machine, to a file, without secrets.

    The file is what --fleet reads: nodes, pods, queues, quotas and the names of what manifests refer to. Secrets,
    values of environment variables, commands and managed fields are left out. This machine is one node, and what its
    other processes hold one pod.

    \b
    ironloom snapshot --context prod --out prod.json.gz
    ironloom check job.yaml --fleet prod.json.gz
    ironloom snapshot --out here.json
    """
    if namespace is not None:
        raise UsageError(
            "A snapshot is of all namespaces: the pods of each of them take room on the nodes.",
            hint="leave --namespace out; `check` reads a workload's namespace in its manifest",
        )
    out = out.resolve()  # a link stays one
    if not out.parent.is_dir():
        raise UsageError(f"There is no folder {out.parent} to write {out.name} into", hint="make it first")
    if context is None:
        nodes, pods, num_objects = _machine_into(out)
    else:
        nodes, pods, num_objects = _cluster_into(out, context)
    counts = f"{plural(nodes, 'node')}, {plural(pods, 'pod')}, {plural(num_objects, 'object')} in all"
    if out.is_file():
        size_bytes = out.stat().st_size
        data = {"file": str(out), "nodes": nodes, "pods": pods, "objects": num_objects, "size_bytes": size_bytes}
        tell(f"{out}: {counts}, {format_bytes(size_bytes)}", data, output)
    else:
        say(f"{out}: {counts}")


def _cluster_into(out: Path, context: str) -> tuple[int, int, int]:
    """Write a cluster's objects, and say which kinds could not be read: how many nodes, pods and objects."""
    from ironloom.backends.kubernetes.reader import read_objects

    with closing(_Kept()) as kept:
        with objects_bar(context) as progress:
            reading = read_objects(kept, context=context, progress=progress)
        num_objects = _write(
            out,
            kept.objects(),
            name=reading.context,
            taken_at=reading.taken_at,
            version=reading.version,
            kinds_served=reading.kinds_served,
            kinds_listed=reading.kinds_listed,
        )
    for one in reading.unread:
        say(str(one))
    return kept.count("nodes"), kept.count("pods"), num_objects


def _machine_into(out: Path) -> tuple[int, int, int]:
    """The same of this machine."""
    from ironloom.fleet.here import objects_of
    from ironloom.fleet.machine import this_machine

    machine = this_machine()
    taken_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    objects = objects_of(machine)
    num_objects = _write(out, objects, name=machine.name, taken_at=taken_at)
    return 1, len(objects) - 1, num_objects


def _write(out: Path, objects: Iterable[Mapping[str, Any]], **said: Any) -> int:
    from ironloom.fleet.strip import write_snapshot

    with _replacing(out) if out.is_file() or not out.exists() else out.open("wb") as stream:
        return write_snapshot(objects, stream, **said)


@contextmanager
def _replacing(out: Path) -> Iterator[BinaryIO]:
    """A file that stands at `out` when it is whole, and not before."""
    with NamedTemporaryFile(dir=out.parent, prefix=f".{out.name}.", delete=False) as file:
        partial = Path(file.name)
        try:
            if out.suffix == ".gz":
                # No name and no time in it: the same cluster gives the same bytes.
                with gzip.GzipFile("", "wb", 6, cast("BinaryIO", file), 0) as packed:
                    yield cast("BinaryIO", packed)
            else:
                yield cast("BinaryIO", file)
            file.flush()
            os.fsync(file.fileno())
            partial.replace(out)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


class _Kept:
    """The objects by kind, stripped as they come, so that a cluster of any size fits."""

    def __init__(self) -> None:
        import msgspec

        from ironloom.fleet.strip import strip

        self._decode, self._encode, self._strip = msgspec.json.decode, msgspec.json.encode, strip
        self._by_kind: dict[str, tuple[IO[bytes], list[int]]] = {}

    def begin(self, resource: Resource) -> None:
        before = self._by_kind.pop(resource.full_name, None)
        if before is not None:
            before[0].close()
        self._by_kind[resource.full_name] = (SpooledTemporaryFile(SPOOLED_BYTES), [0])  # noqa: SIM115 (kept open)

    def add(self, resource: Resource, raw: bytes) -> None:
        obj = {"apiVersion": resource.api_version, "kind": resource.kind, **self._decode(raw)}
        stripped = self._strip(obj)
        if stripped is not None:
            spool, count = self._by_kind[resource.full_name]
            spool.write(self._encode(stripped) + b"\n")
            count[0] += 1

    def count(self, name: str) -> int:
        found = self._by_kind.get(name)
        return found[1][0] if found is not None else 0

    def objects(self) -> Iterator[Mapping[str, Any]]:
        for spool, _ in self._by_kind.values():
            spool.seek(0)
            for line in spool:
                yield self._decode(line)

    def close(self) -> None:
        for spool, _ in self._by_kind.values():
            spool.close()
