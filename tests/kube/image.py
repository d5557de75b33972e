"""Container images made of what is on this machine: a static program, or the Python that runs the tests.

An image is an OCI layout of one layer in a tar file, as `ctr images import` takes it:
https://github.com/opencontainers/image-spec/blob/main/image-layout.md.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

LEFT_OUT = ("test", "tests", "site-packages", "idlelib", "ensurepip", "tkinter", "lib2to3", "__pycache__", "config-")
"""Of the standard library: folders that no program here needs."""
ENGINE = "ironloom.test/vllm-openai:1"
"""The image that stands for vLLM's; see engine_layer."""
AS_VLLM = """
import os, runpy, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
knobs = os.environ.get("FAKE_KNOBS", "{}")
sys.argv = ["fake", "--name", given["--model"], "--host", "0.0.0.0", "--port", given["--port"], "--knobs", knobs]
runpy.run_module("ironloom.serve.engines.programs.fake_server", run_name="__main__")
"""
"""What it runs: the fake engine, with vLLM's arguments."""
ENGINE_ENV = {"PYTHONPATH": "/app/src:/app"}
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def write_image(
    path: Path, names: Sequence[str], layer: bytes, entrypoint: Sequence[str], env: Mapping[str, str] | None = None
) -> None:
    """One image under several names, as a tar file."""
    blobs: dict[str, bytes] = {}

    def added(data: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    layers = [added(layer, "layer.v1.tar")]
    config = {
        "architecture": ARCHITECTURES[sysconfig.get_platform().rpartition("-")[2]],
        "os": "linux",
        "config": {"Entrypoint": list(entrypoint), "Env": [f"{name}={value}" for name, value in (env or {}).items()]},
        "rootfs": {"type": "layers", "diff_ids": [layers[0]["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": added(json.dumps(config).encode(), "config.v1+json"),
        "layers": layers,
    }
    described = added(json.dumps(manifest).encode(), "manifest.v1+json")
    index = {
        "schemaVersion": 2,
        "manifests": [{**described, "annotations": {"io.containerd.image.name": name}} for name in names],
    }
    files = {
        "oci-layout": json.dumps({"imageLayoutVersion": "1.0.0"}).encode(),
        "index.json": json.dumps(index).encode(),
        **blobs,
    }
    path.write_bytes(_tar(files.items()))


def program_layer(program: Path) -> bytes:
    """A layer with one static program, at its name in the root."""
    return _tar([(program.name, program.read_bytes())], mode=0o755)


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
    return _tar(
        ((name.lstrip("/"), path.read_bytes()) for name, path in sorted(placed.items())),
        mode=0o755,
    )


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


def _tar(files: Iterable[tuple[str, bytes]], mode: int = 0o644) -> bytes:
    """Files with their folders, owned by root, of one time."""
    out = io.BytesIO()
    made: set[str] = set()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files:
            for folder in [str(parent) for parent in reversed(Path(name).parents)][1:]:
                if folder not in made:
                    made.add(folder)
                    entry = tarfile.TarInfo(folder)
                    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(entry)
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()
