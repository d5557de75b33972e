"""The image of three layers: made once for what goes into them, of small packages and wheels made here."""

from __future__ import annotations

import gzip
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripts.build_image import apt, image, wheels
from scripts.build_image.bytecode import TAG, with_bytecode
from scripts.build_image.debian import PYTHON, Package
from scripts.build_image.oci import layout
from scripts.build_image.tree import Entry, Tree, of_tar, put
from tests.build_image.image_parts import deb, wheel

PIN = Package(architecture="amd64", sha256="0" * 64, num_bytes=1, path="pool/main/b/base_1_amd64.deb")
WHEEL = wheel({"tool/__init__.py": b"ANSWER = 42\n"})


class Host:
    """The Python that runs the tests, in the place of the image's."""

    def run(self, program: str, *arguments: str, stdin: str = "") -> str:
        command = [sys.executable, "-S", "-c", program, *arguments]
        done = subprocess.run(
            command, input=stdin, env={"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=True
        )
        return done.stdout


@pytest.fixture
def order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> image.Order:
    monkeypatch.setattr(apt, "fetch", lambda *_: {"base": deb("base-files", {"usr/lib/base.py": b"BASE = 1\n"})})
    monkeypatch.setattr(wheels, "fetch", lambda *_: {"tool-1-py3-none-any.whl": WHEEL})
    monkeypatch.setattr(wheels, "built", lambda *_: wheel({"ironloom/__init__.py": b"", "ironloom/page.html": b"<p>"}))
    monkeypatch.setattr(image, "Interpreter", lambda *_: Host())
    root = tmp_path / "checkout"
    (root / "requirements").mkdir(parents=True)
    (root / image.REQUIREMENTS).write_text("tool==1 --hash=sha256:0\n")
    return image.Order(root=root, cache=tmp_path / "cache", packages=[PIN], architecture="amd64", names=["ironloom:1"])


def trees(made: Any) -> list[Tree]:
    return [of_tar(gzip.decompress(layer.blob)) for layer in made.layers]


def test_each_layer_holds_its_part_with_bytecode_beside_the_modules(order: image.Order) -> None:
    base, dependencies, own = trees(image.build(order, [PIN]))
    assert {"usr/lib/base.py", f"usr/lib/__pycache__/base.{TAG}.pyc", "etc/passwd"} <= base.keys()
    assert dependencies[f"{image.PREFIX}/bin/python"].link == f"/usr/bin/python{PYTHON}"
    assert f"{image.SITE_PACKAGES}/tool/__pycache__/__init__.{TAG}.pyc" in dependencies
    assert own[f"{image.PREFIX}/bin/ironloom"].mode == 0o755
    assert own[f"{image.SITE_PACKAGES}/ironloom/page.html"].data == b"<p>"


def test_the_same_parts_are_the_same_image_from_the_cache_and_without_it(
    order: image.Order, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = layout(image.build(order, [PIN]))
    assert layout(image.build(replace(order, cache=tmp_path / "other"), [PIN]))[1] == first
    monkeypatch.setattr(image, "base_tree", lambda *_, **__: pytest.fail("the layer is there"))
    assert layout(image.build(order, [PIN]))[1] == first


def test_a_layer_that_was_damaged_in_the_cache_is_made_anew(order: image.Order) -> None:
    _, first = layout(image.build(order, [PIN]))
    (blob,) = (order.cache / "layers").glob("ironloom-amd64-*.tar.gz")
    blob.write_bytes(blob.read_bytes()[:-1])
    assert layout(image.build(order, [PIN]))[1] == first


def test_another_time_another_wheel_and_another_package_are_another_image(
    order: image.Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = [layout(image.build(order, [PIN]))[1]]
    digests.append(layout(image.build(replace(order, epoch_s=1), [PIN]))[1])
    digests.append(layout(image.build(replace(order, packages=[replace(PIN, sha256="1" * 64)]), [PIN]))[1])
    monkeypatch.setattr(wheels, "built", lambda *_: wheel({"ironloom/__init__.py": b"CHANGED = 1\n"}))
    digests.append(layout(image.build(order, [PIN]))[1])
    assert len({digests[0], digests[1], digests[3]}) == 3
    assert digests[2] == digests[0]  # the same files under another pin


def test_bytecode_is_believed_without_a_look_at_its_source_and_a_module_that_is_none_has_no_bytecode() -> None:
    tree: Tree = {}
    put(tree, "lib/good.py", Entry(data=b"x = {'a', 'b', 'c'}\n"))
    put(tree, "lib/template.py", Entry(data=b"def {{ name }}():\n"))
    put(tree, "lib/linked.py", Entry(link="good.py"))
    found = with_bytecode(tree, Host())
    made = {path: one for path, one in found.items() if path.endswith(".pyc")}
    assert made.keys() == {f"lib/__pycache__/good.{TAG}.pyc"}
    (code,) = [one.data for one in made.values()]
    assert int.from_bytes(code[4:8], "little") == 0b01  # a hash, and no check of it (PEP 552)
    assert b"/lib/good.py" in code
    assert with_bytecode(tree, Host()) == found
