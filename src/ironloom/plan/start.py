"""How long a replica takes to start from nothing, where no start of it was seen: a model of two terms.

    start = fetch (bytes of the checkpoint / a rate) + the rest (load, compile, capture graphs)

Both are one measured start of Llama-3.1-8B in vLLM on a Kubernetes node with an L40S: 61 s of 294 s were the download
of 16.1 GB. Rates of other nodes differ by more than a factor of two both ways, which the band says.
Source: https://tensorfuse.io/docs/blogs/reducing_gpu_cold_start
"""

from __future__ import annotations

from typing import Final

from ironloom.plan.weights import checkpoint_bytes
from ironloom.units import Quantity
from ironloom.workload.shapes.model import ModelShape

FETCH_BYTES_PER_S: Final = 16.1e9 / 61
REST_S: Final = 294 - 61
SPREAD: Final = 3.0
"""Either way, of the whole."""


def cold_start_s(shape: ModelShape) -> Quantity:
    """Seconds from a pod's node to its first answer, its model fetched from the hub."""
    value = checkpoint_bytes(shape) / FETCH_BYTES_PER_S + REST_S
    return Quantity(
        value=value,
        unit="s",
        low=value / SPREAD,
        high=value * SPREAD,
        source="modelled",
        definition="from a pod's node to its being ready, the model fetched from the hub",
    )
