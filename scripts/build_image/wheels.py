"""Wheels as files below a site-packages, without a program of theirs having run.

Source: https://packaging.python.org/en/latest/specifications/binary-distribution-format/
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from scripts.build_image.debian import MACHINES, PYTHON
from scripts.build_image.failure import BuildError
from scripts.build_image.tree import Entry, Tree, put

GLIBC_MINOR = 41
"""Of Debian 13; wheels for this or an older one run there."""
OLD_PLATFORMS = ("manylinux2014", "manylinux2010", "manylinux1")
INSIDE = re.compile(r"[^/]+\.data/(?:purelib|platlib)/(?P<path>.+)")
BESIDE = re.compile(r"[^/]+\.data/")


def environment(architecture: str, version: str = PYTHON) -> dict[str, str]:
    """What markers of requirements are held against: the image's Python, not the one that builds it."""
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{version}.0",
        "os_name": "posix",
        "platform_machine": MACHINES[architecture],
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": f"{version}.0",
        "python_version": version,
        "sys_platform": "linux",
    }


def wanted(requirements: str, markers: Mapping[str, str]) -> list[str]:
    """Of hashed requirements those that hold for an environment, each with its hashes and without its marker."""
    found = []
    for line in requirements.replace("\\\n", " ").splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        head, *hashes = line.split(" --hash=")
        one = Requirement(head.strip())
        if not hashes:
            raise BuildError(f"{one.name} has no hash among the requirements", hint="`scripts/lock` writes them anew")
        if one.marker is None or one.marker.evaluate(dict(markers)):
            pinned = f"{one.name}{one.specifier}"
            found.append(" ".join([pinned, *(f"--hash={value.strip()}" for value in hashes)]))
    return found


def fetch(lines: Iterable[str], architecture: str, cache: Path) -> dict[str, bytes]:
    """The wheels by file name: from the cache where all of them are there, else by pip. Raises BuildError."""
    lines = list(lines)
    folder = folder_of(lines, architecture, cache)
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as made:
            listed, there = Path(made, "requirements.txt"), Path(made, "wheels")
            listed.write_text("\n".join(lines))
            there.mkdir()
            _download(listed, architecture, there)
            with contextlib.suppress(OSError):  # another build was quicker
                there.rename(folder)
    found = {path.name: path.read_bytes() for path in sorted(folder.glob("*.whl"))}
    pins = {canonicalize_name(line.partition("==")[0]) for line in lines}
    if lacking := pins - {canonicalize_name(name.partition("-")[0]) for name in found}:
        raise BuildError(f"{folder} lacks {', '.join(sorted(lacking))}", hint=f"remove {folder} and build again")
    return found


def folder_of(lines: Iterable[str], architecture: str, cache: Path) -> Path:
    """Where the wheels of these pins lie."""
    given = "\n".join([architecture, PYTHON, str(GLIBC_MINOR), *lines])
    return cache / hashlib.sha256(given.encode()).hexdigest()[:16]


def _download(listed: Path, architecture: str, folder: Path) -> None:
    machine = MACHINES[architecture]
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC_MINOR, 4, -1)]
    platforms += [f"{name}_{machine}" for name in OLD_PLATFORMS] + [f"linux_{machine}"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--only-binary", ":all:", "--implementation", "cp", "--python-version", PYTHON]
    command += ["--abi", f"cp{PYTHON.replace('.', '')}"]
    command += [word for platform in platforms for word in ("--platform", platform)]
    done = subprocess.run(
        [*command, "--dest", str(folder), "-r", str(listed)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip() or "no word").splitlines()[-1]
        raise BuildError(
            f"pip cannot fetch the wheels of the image: {last}",
            hint="each pin needs a wheel for CPython " + PYTHON + f" on {machine}; `scripts/lock` writes the pins anew",
        )


def built(root: Path, epoch_s: int) -> bytes:
    """The wheel of the checkout. Raises BuildError with the last words of hatchling."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
            cwd=root,
            env={"PATH": "/usr/bin:/bin", "SOURCE_DATE_EPOCH": str(max(epoch_s, MIN_ZIP_EPOCH_S))},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            last = (done.stderr.strip() or "no word").splitlines()[-1]
            raise BuildError(f"The wheel cannot be built: {last}", hint="run it with .venv's Python: `make image`")
        (wheel,) = Path(folder).glob("*.whl")
        return wheel.read_bytes()


MIN_ZIP_EPOCH_S = 315_532_800
"""1980-01-01: a zip file knows no day before it."""


def unpacked(wheel: bytes, site_packages: str) -> Tree:
    """Its modules and its metadata. Scripts and data beside them are left out: the image runs one program."""
    tree: Tree = {}
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        for info in sorted(archive.infolist(), key=lambda one: one.filename):
            name = info.filename
            if name.endswith("/"):
                continue
            if inside := INSIDE.fullmatch(name):
                name = inside["path"]
            elif BESIDE.match(name):
                continue
            if name.startswith("/") or ".." in name.split("/"):
                raise ValueError(f"{name} leaves the wheel's folder")
            is_program = bool((info.external_attr >> 16) & 0o111)
            entry = Entry(data=archive.read(info), mode=0o755 if is_program else 0o644)
            put(tree, f"{site_packages}/{name}", entry)
    return tree
