"""Bytecode beside the modules, made by the image's own Python: a root file system that is read-only gets none later."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Protocol

from scripts.build_image.debian import MULTIARCH, PYTHON
from scripts.build_image.failure import BuildError
from scripts.build_image.tree import Entry, Tree, put, write_out

TAG = f"cpython-{PYTHON.replace('.', '')}"
COMPILE = """
import py_compile, sys
UNCHECKED = py_compile.PycInvalidationMode.UNCHECKED_HASH
for number, line in enumerate(sys.stdin):
    source, shown = line.rstrip("\\n").split("\\t")
    py_compile.compile(source, f"{sys.argv[1]}/{number}.pyc", shown, quiet=2, invalidation_mode=UNCHECKED)
"""
"""One after the other in one process: what is compiled before may be seen in what comes after."""


class Runs(Protocol):
    """A Python that runs a program of a few lines."""

    def run(self, program: str, *arguments: str, stdin: str = "") -> str:
        """What it prints. Raises BuildError."""
        ...


class Interpreter:
    """The Python of a base, run as it lies in a folder: by its own loader, with its own libraries."""

    def __init__(self, base: Tree, architecture: str, folder: Path) -> None:
        self._root = folder / "root"
        self._libraries = self._root / "usr" / "lib" / MULTIARCH[architecture]
        wanted = ("usr/bin", "usr/lib")
        write_out({path: one for path, one in base.items() if path.startswith(wanted) or path == "usr"}, self._root)

    def run(self, program: str, *arguments: str, stdin: str = "") -> str:
        """What it prints. Raises BuildError."""
        (loader,) = self._libraries.glob("ld-linux-*.so.*")
        python = self._root / "usr" / "bin" / f"python{PYTHON}"
        command = [str(loader), "--library-path", str(self._libraries), str(python), "-s", "-S", "-P", "-c", program]
        try:
            done = subprocess.run(
                [*command, *arguments],
                input=stdin,
                env={"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8"},
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError as error:
            raise BuildError(
                f"The Python of the image cannot be started from {self._root}: {error.strerror}",
                hint="TMPDIR names a folder from which programs may be started",
            ) from None
        if done.returncode:
            last = (done.stderr.strip() or "no word").splitlines()[-1]
            raise BuildError(f"The Python of the image failed: {last}", hint="it runs on Linux of its own architecture")
        return done.stdout


def with_bytecode(tree: Tree, interpreter: Runs) -> Tree:
    """The tree with a .pyc beside each module that compiles. They are believed without a look at the source."""
    modules = sorted(path for path, one in tree.items() if path.endswith(".py") and one.link is None)
    with tempfile.TemporaryDirectory() as folder:
        sources, made = Path(folder, "sources"), Path(folder, "made")
        sources.mkdir()
        made.mkdir()
        for number, path in enumerate(modules):
            (sources / f"{number}.py").write_bytes(tree[path].data)
        lines = "".join(f"{sources / f'{number}.py'}\t/{path}\n" for number, path in enumerate(modules))
        interpreter.run(COMPILE, str(made), stdin=lines)
        found = dict(tree)
        for path, data in _made(modules, made):
            put(found, path, Entry(data=data))
    return found


def _made(modules: Iterable[str], folder: Path) -> Iterable[tuple[str, bytes]]:
    for number, path in enumerate(modules):
        file, where = folder / f"{number}.pyc", PurePosixPath(path)
        if file.exists():
            yield str(where.parent / "__pycache__" / f"{where.stem}.{TAG}.pyc"), file.read_bytes()
