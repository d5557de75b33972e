"""Files of an image in hand, and the tar of a layer that is the same for the same files.

Source of the rules for layers: https://github.com/opencontainers/image-spec/blob/main/layer.md
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

MAX_LINKS = 20
"""Links in a row that are followed; more are a circle."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A file, a folder or a symbolic link."""

    data: bytes = b""
    mode: int = 0o644
    link: str | None = None
    """Where a symbolic link leads."""
    is_folder: bool = False
    owner: int = 0
    """User id and group id."""


FOLDER = Entry(is_folder=True, mode=0o755)
Tree = dict[str, Entry]
"""Entries by their paths from the root, without a slash at the begin."""


def put(tree: Tree, path: str, entry: Entry) -> None:
    """Add an entry with the folders above it; a folder above that is a link is followed, as a file system would."""
    where = PurePosixPath(resolved(tree, str(PurePosixPath(path).parent)), PurePosixPath(path).name)
    for folder in [str(parent) for parent in reversed(where.parents)][1:]:
        tree.setdefault(folder, FOLDER)
    there = tree.get(str(where))
    if entry.is_folder and there is not None and there.link is not None:
        return  # the folder is the one that the link leads to
    tree[str(where)] = entry


def resolved(tree: Tree, path: str) -> str:
    """The path without links. Raises ValueError where they lead in a circle."""
    for _ in range(MAX_LINKS):
        parts = PurePosixPath(path).parts
        for number in range(1, len(parts) + 1):
            entry = tree.get("/".join(parts[:number]))
            if entry is not None and entry.link is not None:
                path = _joined("/".join(parts[: number - 1]), entry.link, parts[number:])
                break
        else:
            return "/".join(parts)
    raise ValueError(f"the links of {path} lead in a circle")


def _joined(folder: str, link: str, rest: tuple[str, ...]) -> str:
    found: list[str] = []
    for part in PurePosixPath("/", folder, link, *rest).parts[1:]:
        found = found[:-1] if part == ".." else [*found, part]
    return "/".join(found)


def as_tar(tree: Mapping[str, Entry], *, epoch_s: int = 0) -> bytes:
    """Sorted by path, everything of one time, owners by their numbers."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, entry in sorted(tree.items()):
            member = tarfile.TarInfo(path)
            member.mode, member.mtime, member.uid, member.gid = entry.mode, epoch_s, entry.owner, entry.owner
            if entry.is_folder:
                member.type = tarfile.DIRTYPE
            elif entry.link is not None:
                member.type, member.linkname, member.mode = tarfile.SYMTYPE, entry.link, 0o777
            else:
                member.size = len(entry.data)
            tar.addfile(member, io.BytesIO(entry.data))
    return out.getvalue()


def of_tar(data: bytes) -> Tree:
    """The entries of a tar, a hard link as the file that it is. Raises ValueError for a path that leaves the root, and
    for a device."""
    tree: Tree = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            path = str(PurePosixPath("/", member.name).relative_to("/"))
            if ".." in PurePosixPath(path).parts:
                raise ValueError(f"{member.name} leaves the root")
            if path == ".":
                continue
            if member.isdir():
                put(tree, path, replace(FOLDER, mode=member.mode))
            elif member.issym():
                put(tree, path, Entry(link=member.linkname))
            elif member.islnk():
                put(tree, path, tree[str(PurePosixPath("/", member.linkname).relative_to("/"))])
            elif member.isfile():
                content = tar.extractfile(member)
                put(tree, path, Entry(data=content.read() if content else b"", mode=member.mode))
            else:
                raise ValueError(f"{member.name} is neither file, folder nor link")
    return tree


def write_out(tree: Mapping[str, Entry], folder: Path) -> None:
    """The entries as files of a folder, owned by who writes them."""
    for path, entry in sorted(tree.items()):
        target = folder / path
        if entry.is_folder:
            target.mkdir(parents=True, exist_ok=True)
        elif entry.link is not None:
            target.symlink_to(entry.link)
        else:
            target.write_bytes(entry.data)
            target.chmod(entry.mode | 0o600)
