"""The base of the image: files of Debian packages that a lock names, without their scripts having run.

Source of the format: https://manpages.debian.org/trixie/dpkg-dev/deb.5.en.html
"""

from __future__ import annotations

import io
import lzma
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from scripts.build_image.failure import BuildError
from scripts.build_image.tree import FOLDER, Entry, Tree, of_tar, put

RELEASE = "trixie"
VERSION = "13"
PYTHON = "3.13"
"""Of that release."""
MULTIARCH = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
PACKAGES = (
    "base-files",
    "ca-certificates",
    "libbz2-1.0",
    "libc6",
    "libdb5.3t64",
    "libexpat1",
    "libffi8",
    "libgcc-s1",
    "liblzma5",
    "libncursesw6",
    f"libpython{PYTHON}-minimal",
    f"libpython{PYTHON}-stdlib",
    "libreadline8t64",
    "libsqlite3-0",
    "libssl3t64",
    "libtinfo6",
    "libuuid1",
    "libzstd1",
    "media-types",
    "netbase",
    f"python{PYTHON}-minimal",
    "tzdata",
    "zlib1g",
)
"""All of the base: Python, and what its standard library is linked against."""
LEFT_OUT = {
    "awk": "asked for by scripts of base-files",
    "debconf": "asks questions of who installs",
    "gcc-14-base": "a folder of documents",
    "openssl": "the command; its library is here",
    "openssl-provider-legacy": "ciphers that nobody may use any more",
    "readline-common": "key bindings of a terminal",
}
"""What Debian says that these need and the image does not have, with the reason."""
PRUNED = re.compile(
    r"usr/share/(man|info|locale|lintian|bug|doc-base|perl5|bash-completion|zsh|readline|gcc|libc-bin)(/|$)"
    r"|usr/share/doc/[^/]+/(?!copyright$)"
    r"|usr/lib/python[\d.]+/(idlelib|ensurepip|tkinter|turtledemo|pydoc_data|test)(/|$)|usr/lib/python[\d.]+/turtle\.py$"
    r"|usr/sbin/|etc/(ca-certificates|update-motd\.d|profile|skel|default)"
)
"""Of the packages: what no program reads. Their licences stay."""
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
USERS = "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:{user}:{user}:nonroot:{home}:/sbin/nologin\n"
GROUPS = "root:x:0:\nnonroot:x:{user}:\n"
NAME_SERVICES = "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """One file of a Debian archive, as a lock pins it."""

    architecture: str
    """Of the image; a package for all of them is named for each."""
    sha256: str
    num_bytes: int
    path: str
    """Below the root of an archive, which its index calls Filename."""

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name.partition("_")[0]


def read_lock(text: str, architecture: str) -> list[Package]:
    """The packages of an architecture. Raises BuildError for a line that is none, and where there are none."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split()
        if len(words) != 4 or not re.fullmatch(r"[0-9a-f]{64}", words[1]) or not words[2].isdigit():
            raise BuildError(
                f"Line {number} of the lock is {line!r}, not ARCHITECTURE SHA256 BYTES PATH",
                hint="`make image-lock` writes it anew",
            )
        found.append(Package(architecture=words[0], sha256=words[1], num_bytes=int(words[2]), path=words[3]))
    wanted = [one for one in found if one.architecture == architecture]
    if not wanted:
        raise BuildError(
            f"The lock has no packages for {architecture}",
            hint=f"it has them for {', '.join(sorted({one.architecture for one in found})) or 'nothing'}",
        )
    return wanted


def lock_text(packages: Iterable[Package]) -> str:
    """Sorted by architecture and path, as read_lock reads it."""
    head = f"# Debian {VERSION} packages of the gateway's image: architecture, sha256, bytes, path in an archive.\n"
    ordered = sorted(packages, key=lambda one: (one.architecture, one.path, one.sha256, one.num_bytes))
    lines = [f"{one.architecture} {one.sha256} {one.num_bytes} {one.path}\n" for one in ordered]
    return f"{head}# Written by `make image-lock`.\n{''.join(lines)}"


def missing_dependencies(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """`NAME needs OTHER` for what is neither in the base nor left out for a reason. `needs` has Debian's Depends and
    Pre-Depends of each package, parsed by `alternatives`."""
    have = {*needs, *LEFT_OUT}
    return [
        f"{name} needs {group}"
        for name, groups in sorted(needs.items())
        for group in groups
        if not have.intersection(group.split("|"))
    ]


def alternatives(depends: str) -> list[str]:
    """`a (>= 1), b | c` as `a`, `b|c`."""
    groups = [group for group in depends.split(",") if group.strip()]
    return ["|".join(re.split(r"[ (:]", one.strip())[0] for one in group.split("|")) for group in groups]


def unpacked(deb: bytes) -> tuple[str, Tree]:
    """What its control file says, and its files. Raises ValueError for what is no package."""
    members = dict(_ar(deb))
    control = _tar_of(members, "control.tar")
    with tarfile.open(fileobj=io.BytesIO(control)) as tar:
        text = next(tar.extractfile(one) for one in tar if PurePosixPath(one.name).name == "control")
        assert text is not None
        words = text.read().decode()
    return words, of_tar(_tar_of(members, "data.tar"))


def _tar_of(members: dict[str, bytes], name: str) -> bytes:
    for found, data in members.items():
        if found == f"{name}.xz":
            return lzma.decompress(data)
        if found == name:
            return data
    raise ValueError(f"no {name} or {name}.xz in it, but {', '.join(members) or 'nothing'}")


def _ar(data: bytes) -> Iterator[tuple[str, bytes]]:
    if not data.startswith(b"!<arch>\n"):
        raise ValueError("it is no ar archive")
    at = 8
    while at + 60 <= len(data):
        name, size = data[at : at + 16].decode().strip().rstrip("/"), int(data[at + 48 : at + 58])
        yield name, data[at + 60 : at + 60 + size]
        at += 60 + size + size % 2


def base_tree(debs: Iterable[bytes], *, user: int, home: str) -> Tree:
    """The base of all packages, with what their scripts would have made of it: the bundle of certificates, users, and
    a note of each package for those who scan images."""
    tree: Tree = {}
    read = [unpacked(deb) for deb in debs]
    # base-files first: its links say where /lib and /bin are.
    for control, files in sorted(read, key=lambda one: (_field(one[0], "Package") != "base-files", one[0])):
        for path, entry in sorted(files.items()):
            if not PRUNED.search(path):
                put(tree, path, entry)
        put(tree, f"var/lib/dpkg/status.d/{_field(control, 'Package')}", Entry(data=control.encode()))
    authorities = [tree[path].data for path in sorted(tree) if path.startswith("usr/share/ca-certificates/mozilla/")]
    put(tree, CERTIFICATES, Entry(data=b"".join(one.rstrip() + b"\n" for one in authorities)))
    put(tree, "var/run", Entry(link="/run"))
    put(tree, "usr/lib/ssl/cert.pem", Entry(link=f"/{CERTIFICATES}"))
    put(tree, "usr/bin/python3", Entry(link=f"python{PYTHON}"))
    put(tree, "etc/passwd", Entry(data=USERS.format(user=user, home=home).encode()))
    put(tree, "etc/group", Entry(data=GROUPS.format(user=user).encode()))
    put(tree, "etc/nsswitch.conf", Entry(data=NAME_SERVICES.encode()))
    put(tree, home.lstrip("/"), Entry(is_folder=True, mode=FOLDER.mode, owner=user))
    return _without_empty_folders(tree)


def _field(control: str, name: str) -> str:
    return next(line.partition(":")[2].strip() for line in control.splitlines() if line.startswith(f"{name}:"))


KEPT_EMPTY = ("dev", "home", "mnt", "proc", "root", "run", "sys", "tmp", "var/tmp", "var/lib/ironloom")


def _without_empty_folders(tree: Tree) -> Tree:
    full = {
        str(parent) for path, entry in tree.items() if not entry.is_folder for parent in PurePosixPath(path).parents
    }
    return {path: one for path, one in tree.items() if not one.is_folder or path in full or path in KEPT_EMPTY}
