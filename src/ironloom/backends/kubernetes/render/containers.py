"""What is added to containers that are written already: what is written stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

Object = dict[str, Any]

SHM_BYTES: Final = 16 * 1024**3
"""Upper bound of /dev/shm, which NCCL and PyTorch's workers fill; memory is taken as it is used. The default of
container runtimes, 64 MiB, is too little: https://docs.vllm.ai/en/latest/deployment/docker/"""


def with_variables(written: Iterable[Object], more: Iterable[Object]) -> list[Object]:
    """Those that are written stay; the others follow."""
    kept = list(written)
    names = {one.get("name") for one in kept}
    return [*kept, *(one for one in more if one["name"] not in names)]


def share_memory(pod: Object, container: Object) -> None:
    """Room for /dev/shm, where the manifest mounts none."""
    mounts = container.get("volumeMounts") or []
    if any(one.get("mountPath") == "/dev/shm" for one in mounts):
        return
    volume = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": str(SHM_BYTES)}}
    volumes = pod.get("volumes") or []
    if volume not in volumes:
        pod["volumes"] = [*volumes, volume]
    container["volumeMounts"] = [*mounts, {"name": "shm", "mountPath": "/dev/shm"}]


def tolerate(pod: Object, tolerations: Iterable[Mapping[str, Any]]) -> list[Object]:
    """Those that the pod did not have."""
    known = pod.get("tolerations") or []
    missing = [dict(one) for one in tolerations if dict(one) not in known]
    if missing:
        pod["tolerations"] = [*known, *missing]
    return missing
