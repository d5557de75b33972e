"""A service without GPUs: vLLM's image for CPUs, and what its build is to be told in a pod.

Its project publishes the image with each release, for x86_64 and arm64 under one tag, so that the node's own is pulled.
Sources: https://docs.vllm.ai/en/latest/getting_started/installation/cpu/ (image, environment variables) and
https://hub.docker.com/r/vllm/vllm-openai-cpu/tags
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ironloom.units import GIB
from ironloom.workload.serving import Serving

IMAGE: Final = "vllm/vllm-openai-cpu:v0.26.0"
KV_CACHE_GIB: Final = 4
"""Where the manifest says no memory. Untold, vLLM plans with nearly all of the node's."""
MEMORY_PER_KV_CACHE: Final = 4
"""Of the memory that a manifest names the cache is one part in so many: the weights, torch and the compiled graph take
the rest. Chosen here; the manifest's own VLLM_CPU_KVCACHE_SPACE outranks it."""
KV_CACHE: Final = "VLLM_CPU_KVCACHE_SPACE"
_SIZES: Final = ("--gpu-memory-utilization", "--kv-cache-memory-bytes")


def kv_cache_gib(serving: Serving) -> int | None:
    """The room for the KV cache, in GiB; None where the manifest says it."""
    said = {str(one).partition("=")[0].replace("_", "-") for one in serving.engine_args}
    if KV_CACHE in serving.env or not said.isdisjoint(_SIZES):
        return None
    if not serving.resources.memory_bytes:
        return KV_CACHE_GIB
    return max(1, serving.resources.memory_bytes // (MEMORY_PER_KV_CACHE * GIB))


def variables(serving: Serving) -> Mapping[str, str]:
    """What the engine is told beside the manifest's own variables.

    Where processors are asked for, there are as many threads and none is bound: bound ones would be as many as the node
    has processors, on the same processors as those of the next pod.
    """
    found: dict[str, str] = {}
    if (size := kv_cache_gib(serving)) is not None:
        found[KV_CACHE] = str(size)
    if serving.resources.cpu:
        found |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(max(1, int(serving.resources.cpu)))}
    return {name: value for name, value in found.items() if name not in serving.env}


def note(serving: Serving) -> str:
    """What is said of it."""
    size = kv_cache_gib(serving)
    told = f", with {size} GiB for its KV cache ({KV_CACHE})" if size is not None else ""
    return f"it asks for no GPU: {IMAGE}, vLLM's build for CPUs, runs it{told}"
