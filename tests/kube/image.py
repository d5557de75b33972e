"""Container images made of what is on this machine: a static program, or the Python that runs the tests.

They are written by what writes the gateway's image, scripts/build_image.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from scripts.build_image import oci
from scripts.build_image.__main__ import native
from scripts.build_image.tree import Entry, Tree, as_tar, put

LEFT_OUT = ("test", "tests", "site-packages", "idlelib", "ensurepip", "tkinter", "lib2to3", "__pycache__", "config-")
"""Of the standard library: folders that no program here needs."""
ENGINE = "ironloom.test/vllm-openai:1"
"""The image that stands for vLLM's; see engine_layer."""
GATEWAY = "ironloom.test/ironloom:1"
"""The gateway's own image, which scripts/build_image builds."""
STORAGE = "ironloom.test/storage-initializer:1"
"""The same image, which stands for KServe's storage initializer too."""
CONFIG = "config.json"
AS_VLLM = """
import os, runpy, sys
if "://" in sys.argv[1]:
    with open(os.path.join(sys.argv[2], CONFIG), "w") as config:
        config.write(sys.argv[1])
    sys.exit()
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if given["--model"].startswith("/"):
    os.stat(os.path.join(given["--model"], CONFIG))
knobs, port = os.environ.get("FAKE_KNOBS", "{}"), given.get("--port", "8000")
sys.argv = ["fake", "--name", given["--model"], "--host", "0.0.0.0", "--port", port, "--knobs", knobs]
runpy.run_module("ironloom.serve.engines.programs.fake_server", run_name="__main__")
""".replace("CONFIG", repr(CONFIG))
"""What it runs: the fake engine, with vLLM's arguments; one that finds no model in its folder ends. With a URI and a
folder, as KServe calls its storage initializer, it puts a model there."""
ENGINE_ENV = {"PYTHONPATH": "/app/src:/app"}


def write_image(
    path: Path, names: Sequence[str], layer: bytes, entrypoint: Sequence[str], env: Mapping[str, str] | None = None
) -> None:
    """One image of one layer under several names, as an archive."""
    config = {"Entrypoint": list(entrypoint), "Env": [f"{name}={value}" for name, value in (env or {}).items()]}
    image = oci.Image(architecture=native(), layers=[oci.plain_layer(layer)], names=names, config=config)
    oci.write_archive(oci.layout(image)[0], path)


def program_layer(program: Path) -> bytes:
    """A layer with one static program, at its name in the root."""
    return as_tar({program.name: Entry(data=program.read_bytes(), mode=0o755)})


def python_layer(packages: Iterable[str], sources: Iterable[Path]) -> bytes:
    """The running interpreter, its standard library and shared objects at their own paths; packages of the
    environment and source folders in /app.
    """
    stdlib = Path(sysconfig.get_path("stdlib"))
    binary = python_path()
    files = {binary, *(path for path in stdlib.rglob("*") if path.is_file() and not _is_left_out(path, stdlib))}
    placed = {str(path): path for path in files}
    site = Path(sysconfig.get_path("purelib"))
    for root, prefix in [
        *((site / name, f"app/{name}") for name in packages),
        *((p, f"app/{p.name}") for p in sources),
    ]:
        found = [root] if root.is_file() else [path for path in root.rglob("*") if path.is_file()]
        for path in found:
            if "__pycache__" not in path.parts:
                placed[f"/{prefix}/{path.relative_to(root)}" if root.is_dir() else f"/{prefix}"] = path
    objects = [path for path in placed.values() if ".so" in path.name]
    for library in _libraries([binary, *objects]):
        placed.setdefault(str(library), library.resolve())
    tree: Tree = {}
    for name, path in placed.items():
        put(tree, name.lstrip("/"), Entry(data=path.read_bytes(), mode=0o755))
    return as_tar(tree)


def engine_layer() -> bytes:
    """Python with the fake engine and what it imports."""
    source = Path(__file__).resolve().parents[2] / "src"
    return python_layer(["msgspec", "httptools", "typing_extensions.py"], [source])


def engine_command() -> list[str]:
    return [str(python_path()), "-c", AS_VLLM]


def python_path() -> Path:
    """The interpreter's own file, behind the environment's links."""
    return Path(sys.executable).resolve()


def _is_left_out(path: Path, stdlib: Path) -> bool:
    return any(part.startswith(LEFT_OUT) for part in path.relative_to(stdlib).parts[:-1])


def _libraries(objects: Iterable[Path]) -> set[Path]:
    """Shared objects that these need, the loader among them."""
    found: set[Path] = set()
    told = subprocess.run(["ldd", *map(str, objects)], capture_output=True, text=True, check=False).stdout
    for line in told.splitlines():
        words = line.split()
        path = words[2] if len(words) > 2 and words[1] == "=>" else words[0] if words else ""
        if path.startswith("/") and not path.endswith(":"):
            found.add(Path(path))
    return found
