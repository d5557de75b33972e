"""The gateway's image: Debian's Python, the wheels that Ironloom needs, and Ironloom, a layer each.

A layer is made once for what goes into it, and then lies in the cache.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.build_image import apt, wheels
from scripts.build_image.bytecode import Interpreter, with_bytecode
from scripts.build_image.debian import PYTHON, Package, base_tree
from scripts.build_image.oci import GZIP, Image, Layer, digest_of, gzip_layer
from scripts.build_image.tree import Entry, Tree, as_tar, put

from ironloom import __version__
from ironloom.backends.kubernetes.install import PORT, STATE, USER_ID

PREFIX = "opt/ironloom"
SITE_PACKAGES = f"{PREFIX}/lib/python{PYTHON}/site-packages"
REQUIREMENTS = "requirements/base.txt"
ENVIRONMENT = {
    "PATH": f"/{PREFIX}/bin:/usr/bin",
    "HOME": STATE,
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
}
CONFIG: Mapping[str, Any] = {
    "User": f"{USER_ID}:{USER_ID}",
    "ExposedPorts": {f"{PORT}/tcp": {}},
    "Env": [f"{name}={value}" for name, value in ENVIRONMENT.items()],
    "Entrypoint": [f"/{PREFIX}/bin/ironloom"],
    "WorkingDir": "/",
    "Labels": {
        "org.opencontainers.image.title": "Ironloom",
        "org.opencontainers.image.description": "The gateway: OpenAI's API before services that scale to zero.",
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.version": __version__,
    },
}
"""What deploy/Dockerfile says too."""
VENV = (
    f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {PYTHON}\nexecutable = /usr/bin/python{PYTHON}\n"
)
START = f"""\
#!/{PREFIX}/bin/python
import sys

from ironloom.cli.main import main

sys.exit(main())
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What is to be built, of what."""

    root: Path
    """The checkout."""
    cache: Path
    packages: Sequence[Package]
    architecture: str
    names: Sequence[str]
    epoch_s: int = 0
    """The time of all files, and of the image."""
    archives: Sequence[str] = ()
    """Of Debian; those of this machine's apt without any."""


def build(order: Order, native: Sequence[Package]) -> Image:
    """`native` is the base for the machine that builds, whose Python makes the bytecode. Raises BuildError."""
    debs = order.cache / "debs"

    def base() -> Tree:
        files = apt.fetch(order.packages, debs, order.archives).values()
        return base_tree(files, user=USER_ID, home=STATE)

    with tempfile.TemporaryDirectory() as folder:
        compilers: list[Interpreter] = []

        def compiled(tree: Tree) -> Tree:
            if not compilers:
                files = apt.fetch(native, debs, order.archives).values()
                compilers.append(
                    Interpreter(base_tree(files, user=USER_ID, home=STATE), native[0].architecture, Path(folder))
                )
            return with_bytecode(tree, compilers[0])

        lines = wheels.wanted((order.root / REQUIREMENTS).read_text(), wheels.environment(order.architecture))
        own = wheels.built(order.root, order.epoch_s)
        # What makes a layer's bytes: its sources, who compiled them, and this program.
        given = [*(one.sha256 for one in (*order.packages, *native)), str(order.epoch_s), own_sources()]
        layers = (
            _layer(order, "base", given, lambda: compiled(base())),
            _layer(order, "dependencies", [*given, *lines], lambda: compiled(_dependencies(lines, order))),
            _layer(order, "ironloom", [*given, digest_of(own)], lambda: compiled(_ironloom(own))),
        )
    return Image(
        architecture=order.architecture,
        layers=layers,
        names=order.names,
        config=CONFIG,
        created=datetime.fromtimestamp(order.epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


COMMENTS = {
    "base": f"Debian's Python {PYTHON} and what it needs, deploy/debian-13.lock",
    "dependencies": f"the wheels of {REQUIREMENTS}",
    "ironloom": f"Ironloom {__version__}",
}


def _layer(order: Order, name: str, given: Sequence[str], make: Callable[[], Tree]) -> Layer:
    key = digest_of("\n".join([name, *given]).encode()).partition(":")[2][:16]
    kind = f"{name}-{order.architecture}"
    blob, told = (order.cache / "layers" / f"{kind}-{key}{end}" for end in (".tar.gz", ".json"))
    if told.exists() and blob.exists():
        data, said = blob.read_bytes(), json.loads(told.read_text())
        if digest_of(data) == said["digest"]:
            return Layer(blob=data, diff_id=said["diff_id"], media_type=GZIP, comment=COMMENTS[name])
    made = gzip_layer(as_tar(make(), epoch_s=order.epoch_s), COMMENTS[name])
    blob.parent.mkdir(parents=True, exist_ok=True)
    for stale in blob.parent.glob(f"{kind}-*"):
        stale.unlink()
    blob.write_bytes(made.blob)
    told.write_text(json.dumps({"digest": digest_of(made.blob), "diff_id": made.diff_id}))
    return made


def _dependencies(lines: Sequence[str], order: Order) -> Tree:
    tree: Tree = {}
    put(tree, f"{PREFIX}/pyvenv.cfg", Entry(data=VENV.encode()))
    put(tree, f"{PREFIX}/bin/python", Entry(link=f"/usr/bin/python{PYTHON}"))
    for wheel in wheels.fetch(lines, order.architecture, order.cache / "wheels").values():
        tree.update(wheels.unpacked(wheel, SITE_PACKAGES))
    return tree


def _ironloom(wheel: bytes) -> Tree:
    tree = wheels.unpacked(wheel, SITE_PACKAGES)
    put(tree, f"{PREFIX}/bin/ironloom", Entry(data=START.encode(), mode=0o755))
    return tree


def own_sources() -> str:
    """A digest of the program that builds."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
