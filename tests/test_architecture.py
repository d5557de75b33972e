"""Arrows go one way: a room imports only the rooms above it, and heavy modules only where they may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import ironloom

SOURCE = Path(ironloom.__file__).parent
ROOMS = (
    "errors",
    "units",
    "catalog",
    "fleet",
    "workload",
    "plan",
    "place",
    "check",
    "account",
    "serve",
    "train",
    "backends",
    "doctor",
    "server",
    "cli",
)
"""Top to bottom: a room may import the ones that stand before it."""
HEAVY_ANYWHERE_AT_IMPORT = {
    "torch",
    "transformers",
    "vllm",
    "openvino",
    "openvino_genai",
    "xllamacpp",
    "kubernetes",
    "httpx2",
}
"""May be imported at the top of a module only in train/ and in programs that are started as child processes."""


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path, *, top_level_only: bool = False) -> Iterator[tuple[str, int]]:
    tree = ast.parse(path.read_text())
    nodes: Iterator[ast.AST] = iter(tree.body) if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative imports hide the arrow"
            module = node.module or ""
            yield module, node.lineno
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_room_imports_only_the_rooms_above_it(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return  # the curated names; nothing inside imports them
    assert room in ROOMS, f"{path}: {room} is no room of the architecture"
    for name, line in imports(path):
        parts = name.split(".")
        if parts[0] != "ironloom" or len(parts) < 2 or parts[1].startswith("__"):
            continue
        other = parts[1]
        assert other in ROOMS, f"{path}:{line}: imports {name}, which is no room"
        assert ROOMS.index(other) <= ROOMS.index(room), (
            f"{path}:{line}: {room} may not import {other}, which is below it"
        )


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_heavy_modules_are_not_imported_at_the_top(path: Path) -> None:
    relative = path.relative_to(SOURCE)
    if relative.parts[0] == "train" or "programs" in relative.parts:
        return
    for name, line in imports(path, top_level_only=True):
        assert name.split(".")[0] not in HEAVY_ANYWHERE_AT_IMPORT, f"{path}:{line}: {name} is heavy"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_torch_is_imported_in_train_and_in_child_programs_alone(path: Path) -> None:
    relative = path.relative_to(SOURCE)
    if relative.parts[0] == "train" or "programs" in relative.parts:
        return
    for name, line in imports(path):
        assert name.split(".")[0] != "torch", f"{path}:{line}: torch may not be imported here"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_type_is_described_to_msgspec_at_import(path: Path) -> None:
    """msgspec keeps a type's description at the type, and lets others see it before it is whole: two threads that
    decode the type for the first time crash the process. Imports are one thread's."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("msgspec.json.decode", "msgspec.msgpack.decode"):
            assert "type" not in {keyword.arg for keyword in node.keywords}, (
                f"{path}:{node.lineno}: two threads that come here first crash the process; "
                "decode with a msgspec.json.Decoder(TYPE) of the module"
            )


def test_core_code_never_asks_which_backend_it_has() -> None:
    for path in modules():
        if room_of(path) in ("backends", "cli"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                classes = {child.id for child in ast.walk(node.args[1]) if isinstance(child, ast.Name)}
                assert not {name for name in classes if name.endswith("Backend")}, f"{path}:{node.lineno}"
