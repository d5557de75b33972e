"""Files of an image: links are followed as a file system does, and the same files are the same tar."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from scripts.build_image.tree import FOLDER, Entry, Tree, as_tar, of_tar, put, resolved, write_out
from tests.build_image.image_parts import tar

FILES: Tree = {
    "usr": FOLDER,
    "usr/bin": FOLDER,
    "usr/bin/tool": Entry(data=b"#!", mode=0o755),
    "bin": Entry(link="usr/bin"),
    "tmp": Entry(is_folder=True, mode=0o1777),
    "var": FOLDER,
    "var/own": Entry(is_folder=True, mode=0o755, owner=65532),
    "x" * 150: Entry(data=b"a long name"),
}


def test_the_same_files_are_the_same_tar_in_whatever_order_they_came() -> None:
    assert as_tar(FILES) == as_tar(dict(reversed(FILES.items())))


def test_a_tar_has_numbers_for_owners_and_one_time_and_reads_back() -> None:
    data = as_tar(FILES, epoch_s=7)
    with tarfile.open(fileobj=io.BytesIO(data)) as read:
        members = read.getmembers()
    assert {(one.mtime, one.uname, one.gname) for one in members} == {(7, "", "")}
    assert {one.name: (one.uid, one.gid) for one in members}["var/own"] == (65532, 65532)
    back = of_tar(data)
    assert {**back, "var/own": FILES["var/own"]} == FILES


def test_what_lies_under_a_link_lies_where_it_leads() -> None:
    tree: Tree = {}
    put(tree, "lib64", Entry(link="usr/lib64"))
    put(tree, "usr/lib64", Entry(link="../usr/lib"))
    put(tree, "lib64/ld.so", Entry(data=b"loader"))
    put(tree, "lib64", FOLDER)  # a package that thinks it a folder
    assert tree["usr/lib/ld.so"].data == b"loader"
    assert tree["lib64"].link == "usr/lib64"
    assert resolved(tree, "lib64/ld.so") == "usr/lib/ld.so"


def test_links_in_a_circle_are_refused() -> None:
    tree: Tree = {"a": Entry(link="b"), "b": Entry(link="/a")}
    with pytest.raises(ValueError, match="circle"):
        put(tree, "a/file", Entry())


def test_a_hard_link_is_the_file_that_it_is() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        first, second = tarfile.TarInfo("./first"), tarfile.TarInfo("./second")
        first.size, second.type, second.linkname = 2, tarfile.LNKTYPE, "./first"
        archive.addfile(first, io.BytesIO(b"it"))
        archive.addfile(second)
    assert of_tar(out.getvalue())["second"].data == b"it"


def test_a_path_out_of_the_root_and_a_device_are_refused() -> None:
    with pytest.raises(ValueError, match="leaves the root"):
        of_tar(tar(tarfile.TarInfo("../etc/passwd")))
    device = tarfile.TarInfo("dev/null")
    device.type = tarfile.CHRTYPE
    with pytest.raises(ValueError, match="neither file"):
        of_tar(tar(device))


def test_a_tree_is_written_out_as_files(tmp_path: Path) -> None:
    write_out({path: one for path, one in FILES.items() if path != "var/own"}, tmp_path)
    assert (tmp_path / "bin" / "tool").read_bytes() == b"#!"
    assert (tmp_path / "usr" / "bin" / "tool").stat().st_mode & 0o111
