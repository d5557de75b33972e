"""Waiting for a Deployment that a controller makes from another object."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from ironloom.backends.kubernetes.client import Client
from ironloom.errors import ClusterError

WITHIN_S: Final = 15.0
"""How long a controller is waited for in silence before its own words are told."""
NOT_MADE: Final = "NotMade"
"""Reason of the error where a controller does not make what was applied."""


async def is_there(client: Client, path: str) -> bool:
    """Whether there is an object at a path. Raises ClusterError."""
    try:
        await client.get(path)
    except ClusterError as error:
        if error.status == 404:
            return False
        raise
    return True


async def until_made(client: Client, path: str, maker: str) -> None:
    """Until the controller of the InferenceService at `maker` has made the Deployment at `path`. Raises ClusterError
    with its own words where it does not."""
    pause_s, waited_s = 0.05, 0.0
    while not await is_there(client, path):
        if waited_s >= WITHIN_S:
            break
        await asyncio.sleep(pause_s)
        waited_s, pause_s = waited_s + pause_s, min(1.0, pause_s * 2)
    else:
        return
    status = msgspec.json.decode(await client.get(maker)).get("status") or {}
    said = [str(one.get("message")) for one in status.get("conditions") or () if one.get("message")]
    said += [str(((status.get("modelStatus") or {}).get("lastFailureInfo") or {}).get("message") or "")]
    why = next((one for one in said if one), "its controller has said nothing")
    *_, namespace, _, name = maker.split("/")
    raise ClusterError(
        f"KServe has not made Deployment {path.rpartition('/')[2]} of InferenceService {name}: {why}",
        hint=f"kubectl describe inferenceservice {name} -n {namespace}; does its controller run?",
        reason=NOT_MADE,
    )
