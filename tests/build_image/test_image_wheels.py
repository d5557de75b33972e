"""Wheels of the image: which requirements hold for its Python, and what of a wheel is in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripts.build_image import wheels
from scripts.build_image.__main__ import ROOT
from scripts.build_image.failure import BuildError
from scripts.build_image.image import REQUIREMENTS
from tests.build_image.image_parts import wheel

ONE = "--hash=sha256:" + "1" * 64
LISTED = f"""\
# written by a tool
anyio==4.0 \\
    {ONE} \\
    --hash=sha256:{"2" * 64}
colorama==0.4.6 ; sys_platform == 'win32' \\
    {ONE}
typing-extensions==4.1 ; python_full_version < '3.13' \\
    {ONE}
hf-xet==1.8.0 ; platform_machine == 'x86_64' or platform_machine == 'arm64' \\
    {ONE}
"""


def names(lines: list[str]) -> list[str]:
    return [line.partition("==")[0] for line in lines]


def test_markers_are_held_against_the_image_and_not_against_who_builds_it() -> None:
    assert names(wheels.wanted(LISTED, wheels.environment("amd64"))) == ["anyio", "hf-xet"]
    assert names(wheels.wanted(LISTED, wheels.environment("arm64"))) == ["anyio"]
    assert names(wheels.wanted(LISTED, wheels.environment("amd64", "3.11"))) == ["anyio", "typing-extensions", "hf-xet"]


def test_each_pin_keeps_its_hashes_and_one_without_is_refused() -> None:
    assert wheels.wanted(LISTED, wheels.environment("amd64"))[0] == f"anyio==4.0 {ONE} --hash=sha256:{'2' * 64}"
    with pytest.raises(BuildError, match="anyio has no hash"):
        wheels.wanted("anyio==4.0\n", wheels.environment("amd64"))


def test_the_requirements_that_are_there_hold_for_the_image() -> None:
    found = wheels.wanted((ROOT / REQUIREMENTS).read_text(), wheels.environment("amd64"))
    assert {"httpx2", "starlette", "uvloop"} <= set(names(found))
    assert "colorama" not in names(found)


def test_a_wheel_becomes_its_modules_and_its_metadata() -> None:
    tree = wheels.unpacked(
        wheel(
            {
                "tool/__init__.py": b"",
                "tool/run.sh": b"#!",
                "tool-1.dist-info/METADATA": b"Name: tool",
                "tool-1.data/platlib/tool/fast.so": b"\x7fELF",
                "tool-1.data/scripts/tool": b"#!python",
                "tool-1.data/data/share/tool.conf": b"",
            }
        ),
        "lib/site-packages",
    )
    files = {path: one for path, one in tree.items() if not one.is_folder}
    assert sorted(files) == [
        "lib/site-packages/tool-1.dist-info/METADATA",
        "lib/site-packages/tool/__init__.py",
        "lib/site-packages/tool/fast.so",
        "lib/site-packages/tool/run.sh",
    ]
    assert files["lib/site-packages/tool/run.sh"].mode == 0o755
    assert files["lib/site-packages/tool/fast.so"].mode == 0o644


@pytest.mark.parametrize("name", ["../evil.py", "/etc/evil", "tool-1.data/purelib/../../evil.py"])
def test_a_wheel_that_leaves_its_folder_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="leaves the wheel"):
        wheels.unpacked(wheel({name: b""}), "lib")


def test_wheels_that_are_in_the_cache_are_not_fetched_and_one_that_lacks_is_told(tmp_path: Path) -> None:
    folder = wheels.folder_of(["tool==1 --hash=sha256:0"], "amd64", tmp_path)
    folder.mkdir()
    with pytest.raises(BuildError, match="lacks tool"):
        wheels.fetch(["tool==1 --hash=sha256:0"], "amd64", tmp_path)
    (folder / "tool-1-py3-none-any.whl").write_bytes(b"zip")
    assert wheels.fetch(["tool==1 --hash=sha256:0"], "amd64", tmp_path) == {"tool-1-py3-none-any.whl": b"zip"}
