"""Builds the gateway's image as an OCI layout: `make image`.

    .venv/bin/python -m scripts.build_image [--out PATH] [--name NAME] [--architecture amd64|arm64]

Prints where it lies, and its digest: the same for the same checkout, lock and architecture. Needs apt, for Debian's
packages, and pip, for wheels; neither root nor a container engine. What was fetched stays in
~/.cache/ironloom/image, and is enough without a network.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.build_image import apt
from scripts.build_image.debian import MACHINES, Package, lock_text, read_lock
from scripts.build_image.failure import BuildError
from scripts.build_image.image import Order, build
from scripts.build_image.oci import layout, write_archive, write_folder

from ironloom.backends.kubernetes.install import IMAGE

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "deploy" / "debian-13.lock"


def cache() -> Path:
    """Where layers, packages and wheels are kept: outside of the checkout."""
    if "IRONLOOM_IMAGE_CACHE" in os.environ:
        return Path(os.environ["IRONLOOM_IMAGE_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "ironloom", "image")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        if options.lock:
            lock(options.mirror)
            print(LOCK)
        else:
            out = options.out or cache() / f"{IMAGE.replace(':', '-')}-{options.architecture}"
            print(out, made(out, options.architecture, options.name or [IMAGE], options.mirror, options.or_newest))
    except BuildError as error:
        print(f"{error}\n\nhint: {error.hint}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.build_image", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, metavar="PATH", help="a folder, or an archive where it ends in .tar")
    parser.add_argument("--name", action="append", metavar="NAME", help=f"of the image; default {IMAGE}")
    parser.add_argument("--architecture", choices=sorted(MACHINES), default=native(), help="default: this machine's")
    parser.add_argument("--mirror", action="append", default=[], metavar="URL", help="a Debian archive; default: apt's")
    parser.add_argument(
        "--or-newest", action="store_true", help="where a pinned package is gone, take today's and say so"
    )
    parser.add_argument("--lock", action="store_true", help=f"write {LOCK.relative_to(ROOT)} anew, and build nothing")
    return parser


def native() -> str:
    """This machine's architecture. Raises BuildError for one that the image is not made for."""
    for name, machine in MACHINES.items():
        if machine == platform.machine():
            return name
    raise BuildError(f"This machine is a {platform.machine()}", hint=f"the image is for {' and '.join(MACHINES)}")


def made(
    out: Path, architecture: str, names: Sequence[str], archives: Sequence[str] = (), or_newest: bool = False
) -> str:
    """Build and write it; the digest of its manifest. Raises BuildError."""
    epoch_s = int(os.environ.get("SOURCE_DATE_EPOCH") or 0)

    def built(packages: dict[str, list[Package]]) -> str:
        order = Order(
            root=ROOT,
            cache=cache(),
            packages=packages[architecture],
            architecture=architecture,
            names=names,
            epoch_s=epoch_s,
            archives=archives,
        )
        files, digest = layout(build(order, packages[native()]))
        if out.suffix == ".tar":
            write_archive(files, out)
        else:
            write_folder(files, out)
        return digest

    wanted = {architecture, native()}
    try:
        return built({name: read_lock(LOCK.read_text(), name) for name in wanted})
    except apt.PackageGone as error:
        if not or_newest:
            raise
        print(f"{error}: today's packages are taken in place of the pinned ones", file=sys.stderr)
    return built({name: apt.newest(cache() / "apt" / name, name, archives) for name in wanted})


def lock(archives: Sequence[str] = ()) -> None:
    """Write the lock anew, of all architectures. Raises BuildError."""
    found = [one for name in MACHINES for one in apt.newest(cache() / "apt" / name, name, archives)]
    LOCK.write_text(lock_text(found))


if __name__ == "__main__":
    sys.exit(main())
