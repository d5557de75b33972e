"""The layout is what the OCI image specification says, and the same for the same layers."""

from __future__ import annotations

import gzip
import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from scripts.build_image import oci

TARS = [b"first" * 1000, b"second" * 1000]


def image(**more: Any) -> oci.Image:
    layers = [oci.gzip_layer(TARS[0], "the first"), oci.plain_layer(TARS[1], "the second")]
    return oci.Image(
        **{
            "architecture": "amd64",
            "layers": layers,
            "names": ["registry.example.com/team/tool:1.2"],
            "config": {"User": "65532:65532", "Entrypoint": ["/tool"]},
            **more,
        }
    )


def blob(files: dict[str, bytes], described: dict[str, Any]) -> bytes:
    """What a descriptor names, held against its digest and size."""
    data = files[f"blobs/sha256/{described['digest'].removeprefix('sha256:')}"]
    assert hashlib.sha256(data).hexdigest() == described["digest"].removeprefix("sha256:")
    assert len(data) == described["size"]
    return data


def test_every_descriptor_leads_to_a_blob_of_its_digest_and_size() -> None:
    files, digest = oci.layout(image())
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads(files["index.json"])
    assert (index["schemaVersion"], index["mediaType"]) == (2, "application/vnd.oci.image.index.v1+json")
    (one,) = index["manifests"]
    assert one["digest"] == digest
    assert one["platform"] == {"architecture": "amd64", "os": "linux"}
    assert one["annotations"] == {
        "org.opencontainers.image.ref.name": "1.2",
        "io.containerd.image.name": "registry.example.com/team/tool:1.2",
    }
    manifest = json.loads(blob(files, one))
    assert (manifest["schemaVersion"], manifest["mediaType"]) == (2, one["mediaType"])
    config = json.loads(blob(files, manifest["config"]))
    layers = [blob(files, described) for described in manifest["layers"]]
    unpacked = [gzip.decompress(layers[0]), layers[1]]
    assert unpacked == TARS
    assert [one["mediaType"].rpartition(".")[2] for one in manifest["layers"]] == ["tar+gzip", "tar"]
    assert config["rootfs"] == {
        "type": "layers",
        "diff_ids": [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in unpacked],
    }
    assert [one["created_by"] for one in config["history"]] == ["the first", "the second"]
    assert (config["os"], config["architecture"]) == ("linux", "amd64")
    assert config["config"] == {"User": "65532:65532", "Entrypoint": ["/tool"]}
    named = {"oci-layout", "index.json"} | {
        f"blobs/sha256/{one['digest'].removeprefix('sha256:')}"
        for one in (one, manifest["config"], *manifest["layers"])
    }
    assert files.keys() == named


def test_two_layouts_of_the_same_layers_are_equal_and_others_are_not() -> None:
    assert oci.layout(image()) == oci.layout(image())
    assert oci.layout(image())[1] != oci.layout(image(config={}))[1]
    assert oci.layout(image())[1] != oci.layout(image(created="2026-01-01T00:00:00Z"))[1]


def test_an_image_of_several_names_has_each_and_one_without_a_name_has_none() -> None:
    named, _ = oci.layout(image(names=["a", "b:1"]))
    told = [one["annotations"]["io.containerd.image.name"] for one in json.loads(named["index.json"])["manifests"]]
    assert told == ["docker.io/library/a:latest", "docker.io/library/b:1"]
    nameless, _ = oci.layout(image(names=[]))
    (one,) = json.loads(nameless["index.json"])["manifests"]
    assert "annotations" not in one


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("ironloom", "docker.io/library/ironloom:latest"),
        ("ironloom:0.1.0", "docker.io/library/ironloom:0.1.0"),
        ("team/ironloom:1", "docker.io/team/ironloom:1"),
        ("localhost/ironloom", "localhost/ironloom:latest"),
        ("localhost:5000/ironloom", "localhost:5000/ironloom:latest"),
        ("registry.example.com/a/b:1", "registry.example.com/a/b:1"),
        ("registry.example.com/a@sha256:0", "registry.example.com/a@sha256:0"),
    ],
)
def test_a_name_is_completed_as_runtimes_do(name: str, full: str) -> None:
    assert oci.full_name(name) == full


def test_a_folder_that_is_written_again_keeps_no_blob_of_before(tmp_path: Path) -> None:
    oci.write_folder(oci.layout(image())[0], tmp_path)
    files, _ = oci.layout(image(config={}, layers=[oci.plain_layer(b"alone")]))
    oci.write_folder(files, tmp_path)
    there = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert there == files


def test_an_archive_holds_the_same_files_and_is_the_same_again(tmp_path: Path) -> None:
    files, _ = oci.layout(image())
    first, second = tmp_path / "first.tar", tmp_path / "second.tar"
    oci.write_archive(files, first)
    oci.write_archive(files, second)
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as archive:
        read = {one.name: archive.extractfile(one) for one in archive}
        assert {name: file.read() for name, file in read.items() if file} == files
