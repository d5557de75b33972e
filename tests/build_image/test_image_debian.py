"""The base of the image: what the lock pins, what packages become, and how they are fetched."""

from __future__ import annotations

import hashlib
from pathlib import Path
from shutil import which

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripts.build_image import apt
from scripts.build_image.__main__ import LOCK, main
from scripts.build_image.debian import (
    CERTIFICATES,
    MULTIARCH,
    PACKAGES,
    Package,
    alternatives,
    base_tree,
    lock_text,
    missing_dependencies,
    read_lock,
    unpacked,
)
from scripts.build_image.failure import BuildError
from scripts.build_image.tree import Entry
from tests.build_image.image_parts import deb


@pytest.mark.parametrize("architecture", sorted(MULTIARCH))
def test_the_lock_pins_every_package_of_the_base_once(architecture: str) -> None:
    found = read_lock(LOCK.read_text(), architecture)
    assert sorted(one.name for one in found) == sorted(PACKAGES)
    assert all(one.path.startswith(("pool/main/", "pool/updates/main/")) for one in found)


PINS = st.builds(
    Package,
    architecture=st.sampled_from(["amd64", "arm64"]),
    sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    num_bytes=st.integers(0, 10**9),
    path=st.from_regex(r"pool/main/[a-z]{1,3}/[a-z0-9.+-]{1,9}_[0-9~+]{1,5}_all\.deb", fullmatch=True),
)


@given(st.lists(PINS, max_size=5))
def test_a_lock_reads_back_in_whatever_order_it_was_made(packages: list[Package]) -> None:
    text = lock_text(packages)
    assert text == lock_text(reversed(packages))
    for architecture in {one.architecture for one in packages}:
        mine = [one for one in packages if one.architecture == architecture]
        assert sorted(map(str, read_lock(text, architecture))) == sorted(map(str, mine))


def test_a_line_that_is_no_pin_and_an_architecture_without_any_are_told() -> None:
    with pytest.raises(BuildError, match="Line 2 of the lock is 'amd64 abc'"):
        read_lock("# a word\namd64 abc\n", "amd64")
    with pytest.raises(BuildError, match="no packages for arm64"):
        read_lock(
            lock_text([Package(architecture="amd64", sha256="0" * 64, num_bytes=1, path="pool/a_1_all.deb")]), "arm64"
        )


def test_what_a_package_needs_is_in_the_base_or_left_out_for_a_reason() -> None:
    assert alternatives("libc6 (>= 2.38), debconf (>= 0.5) | debconf-2.0, libx:any") == [
        "libc6",
        "debconf|debconf-2.0",
        "libx",
    ]
    needs = {"a": ["libc6", "debconf|debconf-2.0"], "libc6": ["libother"]}
    assert missing_dependencies(needs) == ["libc6 needs libother"]
    assert alternatives("") == []


def test_a_base_has_the_bundle_of_certificates_users_and_a_note_of_each_package() -> None:
    authorities = {f"usr/share/ca-certificates/mozilla/{name}.crt": f"-- {name} --\n".encode() for name in "ba"}
    junk = {"usr/share/man/man1/a.1": b"", "usr/share/doc/certs/changelog.gz": b"", "usr/sbin/update": b""}
    files = base_tree(
        [
            deb("certs", {**authorities, **junk, "usr/share/doc/certs/copyright": b"free"}),
            deb("libc6", {"lib64/ld.so": b"loader"}),
            deb("base-files", {"lib64": Entry(link="usr/lib64"), "tmp": Entry(is_folder=True, mode=0o1777)}),
        ],
        user=65532,
        home="/var/lib/ironloom",
    )
    assert files[CERTIFICATES].data == b"-- a --\n-- b --\n"
    assert files["usr/lib64/ld.so"].data == b"loader"  # base-files' links come first
    assert files["lib64"].link == "usr/lib64"
    assert b"nonroot:x:65532:65532:nonroot:/var/lib/ironloom" in files["etc/passwd"].data
    assert files["var/lib/ironloom"].owner == 65532
    assert files["tmp"].mode == 0o1777
    assert {path.rpartition("/")[2] for path in files if "status.d/" in path} == {"certs", "libc6", "base-files"}
    assert files["usr/share/doc/certs/copyright"].data == b"free"
    assert not files.keys() & junk.keys()
    assert not any(path.startswith("usr/share/man") for path in files)


@pytest.mark.parametrize("data", [b"", b"!<arch>\n", b"PK\x03\x04", deb("a", {})[:70]])
def test_what_is_no_package_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"ar archive|no control"):
        unpacked(data)


def pinned(archive: Path, name: str, content: bytes) -> Package:
    """A file in an archive, and its pin."""
    path = archive / "pool" / f"{name}_1_all.deb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    return Package(architecture="amd64", sha256=sha256, num_bytes=len(content), path=f"pool/{path.name}")


needs_apt = pytest.mark.skipif(which("apt-get") is None, reason="no apt here: Debian's packages are fetched with it")


@needs_apt
def test_packages_come_from_the_first_archive_that_has_them_and_then_from_the_cache(tmp_path: Path) -> None:
    one, two, cache = tmp_path / "one", tmp_path / "two", tmp_path / "cache"
    wanted = [pinned(one, "a", b"first"), pinned(two, "b", b"second")]
    found = apt.fetch(wanted, cache, [f"file://{one}", f"file://{two}"])
    assert found == {"a": b"first", "b": b"second"}
    assert apt.fetch(wanted, cache, ["file:///nowhere"]) == found


@needs_apt
def test_a_package_that_is_gone_or_is_another_one_is_refused_by_its_name(tmp_path: Path) -> None:
    wanted = pinned(tmp_path, "a", b"first")
    (tmp_path / wanted.path).write_bytes(b"other")
    with pytest.raises(apt.PackageGone, match=r"has a_1_all\.deb"):
        apt.fetch([wanted], tmp_path / "cache", [f"file://{tmp_path}"])


@needs_apt
@pytest.mark.skipif(not apt.KEYS.exists(), reason="Debian's keys are not here: an index is checked with them")
def test_a_lock_is_not_written_from_an_archive_that_has_no_index_signed_by_debian(tmp_path: Path) -> None:
    archive = tmp_path / "archive" / "dists" / "trixie"
    archive.mkdir(parents=True)
    (archive / "Release").write_text("Suite: trixie\nCodename: trixie\n")
    with pytest.raises(BuildError, match=r"no index of Debian's trixie and trixie-security: "):
        apt.newest(tmp_path / "apt", "amd64", [f"file://{tmp_path / 'archive'}"])


def test_a_broken_file_in_the_cache_is_not_taken(tmp_path: Path) -> None:
    wanted = Package(architecture="amd64", sha256="0" * 64, num_bytes=1, path="pool/a_1_all.deb")
    (tmp_path / f"{wanted.sha256}.deb").write_bytes(b"half")
    with pytest.raises(apt.PackageGone):
        apt.fetch([wanted], tmp_path, ["file:///nowhere"])


def test_a_build_that_cannot_be_is_a_sentence_and_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IRONLOOM_IMAGE_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(apt, "HELPER", tmp_path / "none")
    assert main(["--lock"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("There is no apt here")
    assert "\n\nhint: " in told
