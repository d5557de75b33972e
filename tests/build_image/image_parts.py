"""Small packages and wheels, made here."""

from __future__ import annotations

import io
import lzma
import tarfile
import zipfile
from collections.abc import Mapping

from scripts.build_image.tree import Entry, as_tar


def deb(name: str, files: Mapping[str, Entry | bytes], depends: str = "") -> bytes:
    """A Debian package."""
    control = f"Package: {name}\nVersion: 1\nDepends: {depends}\nDescription: of a test\n"
    data = {path: one if isinstance(one, Entry) else Entry(data=one) for path, one in files.items()}
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": lzma.compress(as_tar({"control": Entry(data=control.encode())})),
        "data.tar.xz": lzma.compress(as_tar(data)),
    }
    out = b"!<arch>\n"
    for member, content in members.items():
        head = f"{member:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n"
        out += head.encode() + content + b"\n" * (len(content) % 2)
    return out


def wheel(files: Mapping[str, bytes]) -> bytes:
    """A zip of these files; one whose name ends in .sh may be run."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o755 if name.endswith(".sh") else 0o644) << 16
            archive.writestr(info, data)
    return out.getvalue()


def tar(*members: tarfile.TarInfo) -> bytes:
    """Of members without content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b""))
    return out.getvalue()
