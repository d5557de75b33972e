"""What stands behind `gateway.call`, for those that send requests from inside: other APIs' translators and batches."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Protocol


class CallResult(Protocol):
    """An engine's answer, with its body still to be read. Closing the iterator early drops the request."""

    @property
    def status(self) -> int: ...
    @property
    def body(self) -> AsyncIterator[bytes]: ...


class Caller(Protocol):
    """`gateway.call`: the same holding, retries and accounting as a client's request."""

    async def __call__(
        self,
        service: str,
        path: str,
        body: bytes,
        headers: Mapping[bytes, bytes],
        *,
        key_id: str,
        request_id: str,
    ) -> CallResult:
        """Returns once the answer's head is there. Raises RequestError when the gateway itself refuses or fails."""
        ...


async def read_whole(result: CallResult) -> bytes:
    """The whole body of an answer."""
    return b"".join([piece async for piece in result.body])
