"""An OCI image layout, as files in hand, a folder or an archive.

Source: https://github.com/opencontainers/image-spec/blob/main/image-layout.md and the pages beside it, version 1.1.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TYPE = "application/vnd.oci.image"
GZIP = f"{TYPE}.layer.v1.tar+gzip"
GZIP_LEVEL = 6
HOST_WITHOUT_NAME = "docker.io"
"""What container runtimes put before a name without a host, as `docker pull` does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """What lies in the registry, and the digest of the tar in it."""

    blob: bytes
    diff_id: str
    media_type: str
    comment: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """One image for one architecture."""

    architecture: str
    """Go's name of it: amd64, arm64."""
    layers: Sequence[Layer]
    names: Sequence[str]
    """Under which a runtime has it once it is imported."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Entrypoint, Env, User, ExposedPorts, Labels: https://github.com/opencontainers/image-spec/blob/main/config.md."""
    created: str = "1970-01-01T00:00:00Z"


def plain_layer(tar: bytes, comment: str = "") -> Layer:
    """Not compressed."""
    return Layer(blob=tar, diff_id=digest_of(tar), media_type=f"{TYPE}.layer.v1.tar", comment=comment)


def gzip_layer(tar: bytes, comment: str = "") -> Layer:
    """Compressed; the same tar gives the same bytes wherever zlib is the same."""
    blob = gzip.compress(tar, GZIP_LEVEL, mtime=0)
    return Layer(blob=blob, diff_id=digest_of(tar), media_type=GZIP, comment=comment)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def full_name(name: str) -> str:
    """As runtimes write a name: with its host, and a tag. Source:
    https://github.com/distribution/reference/blob/main/normalize.go.
    """
    first, slash, rest = name.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        name = f"{HOST_WITHOUT_NAME}/{name if slash else f'library/{name}'}"
    else:
        name = f"{first}/{rest}"
    return name if ":" in name.rpartition("/")[2] or "@" in name else f"{name}:latest"


def layout(image: Image) -> tuple[dict[str, bytes], str]:
    """The layout's files by path, and the digest of the image's manifest."""
    blobs: dict[str, bytes] = {}

    def described(data: bytes, media_type: str) -> dict[str, Any]:
        digest = digest_of(data)
        blobs[f"blobs/{digest.replace(':', '/')}"] = data
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    config = {
        "created": image.created,
        "architecture": image.architecture,
        "os": "linux",
        "config": dict(image.config),
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in image.layers]},
        "history": [{"created": image.created, "created_by": layer.comment} for layer in image.layers],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{TYPE}.manifest.v1+json",
        "config": described(_json(config), f"{TYPE}.config.v1+json"),
        "layers": [described(layer.blob, layer.media_type) for layer in image.layers],
    }
    one = described(_json(manifest), f"{TYPE}.manifest.v1+json")
    one["platform"] = {"architecture": image.architecture, "os": "linux"}
    named = [{**one, "annotations": _annotations(full_name(name))} for name in image.names]
    index = {"schemaVersion": 2, "mediaType": f"{TYPE}.index.v1+json", "manifests": named or [one]}
    head = {"oci-layout": _json({"imageLayoutVersion": "1.0.0"}), "index.json": _json(index)}
    return {**head, **dict(sorted(blobs.items()))}, str(one["digest"])


def _annotations(name: str) -> dict[str, str]:
    """The tag for those who read the specification, the whole name for containerd:
    https://github.com/containerd/containerd/blob/main/core/images/annotations.go.
    """
    return {"org.opencontainers.image.ref.name": name.rpartition(":")[2], "io.containerd.image.name": name}


def write_folder(files: Mapping[str, bytes], folder: Path) -> None:
    """Over a layout that is there; blobs that it no longer names are removed."""
    for stale in (folder / "blobs").glob("*/*"):
        if str(stale.relative_to(folder)) not in files:
            stale.unlink()
    # The index last: until it is there, what names these blobs is the one before.
    for path, data in sorted(files.items(), key=lambda item: item[0] == "index.json"):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def write_archive(files: Mapping[str, bytes], path: Path) -> None:
    """As one tar, which `ctr images import` and `docker load` take."""
    with tarfile.open(path, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()
