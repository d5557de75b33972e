"""What a cluster holds of one kind, kept current: a list, then a watch from its version on, for ever.

A watch ends often and for good reasons: the server's own timeout, a proxy's, a restart. It goes on from the last
version that was seen, bookmarks included. When that version is too old (410 Gone) the list is made anew, and what is no
longer there is told as gone. While the server cannot be reached nothing is told: what was known last stays. A watch
that brings not even a bookmark is begun anew: what is at its other end may have gone without a word.
Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ironloom.backends.kubernetes import failures
from ironloom.backends.kubernetes.client import NOT_JSON, Client
from ironloom.errors import ClusterError
from ironloom.workload import look

WATCH_S = (240, 480)
"""A server is asked to end a watch after a time in these bounds, so that the watches of many clients end apart."""
SILENCE_S = 150.0
"""An API server sends a bookmark about once a minute, whether or not something changed.

Source: defaultBookmarkFrequency of https://github.com/kubernetes/apiserver/blob/master/pkg/storage/cacher/cacher.go"""
FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 30.0
_GONE = 410
_FINAL = frozenset({400, 401, 403, 404, 405})
"""Asking again soon would be answered so again; the pause grows to its most at once."""

Object = dict[str, Any]
_logger = logging.getLogger(__name__)


class _Event(msgspec.Struct):
    type: str
    object: Object


_decode = msgspec.json.Decoder(_Event).decode


class Followed:
    """The objects of one list, by (namespace, name), as the server told them last, but for who manages which field:
    that is half of an object's size.

    `on_change` is called with an object's key and the object, or None when it is gone; on the event loop, in order.
    What it raises is logged, and what comes after is told all the same.
    `on_error` is told once a failure begins, and None when it is over.
    """

    def __init__(
        self,
        client: Client,
        path: str,
        *,
        labels: str = "",
        fields: str = "",
        on_change: Callable[[tuple[str, str], Object | None], None],
        on_error: Callable[[ClusterError | None], None] = lambda _: None,
    ) -> None:
        self.objects: dict[tuple[str, str], Object] = {}
        self.listed = asyncio.Event()
        """Set once the first list is whole."""
        self._client = client
        self._path = path
        selectors = {"labelSelector": labels, "fieldSelector": fields}
        self._params = {name: value for name, value in selectors.items() if value}
        self._on_change = on_change
        self._on_error = on_error
        self._version = ""
        self._failing = False

    async def run(self) -> None:
        """Until cancelled."""
        pause_s = FIRST_PAUSE_S
        was_gone = False
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._watch()
                pause_s, was_gone = FIRST_PAUSE_S, False
            except ClusterError as error:
                if error.status == _GONE:
                    self._version = ""
                    if not was_gone:
                        was_gone = True
                        continue
                if not self._failing:
                    self._failing = True
                    self._on_error(error)
                if error.status in _FINAL:
                    pause_s = MAX_PAUSE_S
                await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))
                pause_s = min(MAX_PAUSE_S, pause_s * 2)

    def _recovered(self) -> None:
        if self._failing:
            self._failing = False
            self._on_error(None)

    async def _list(self) -> None:
        found: dict[tuple[str, str], Object] = {}
        version = ""
        async for page in self._client.pages(self._path, params=self._params):
            if page.is_first:
                found.clear()
            for item in page.items:
                one = msgspec.json.decode(item)
                found[_key(one)] = one
            version = page.resource_version
        for key in [key for key in self.objects if key not in found]:
            self._drop(key)
        for key, one in found.items():
            known = self.objects.get(key)
            if known is None or known["metadata"].get("resourceVersion") != one["metadata"].get("resourceVersion"):
                self._put(key, one)
        self._version = version
        self.listed.set()

    async def _watch(self) -> None:
        params = {
            **self._params,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(random.randint(*WATCH_S)),
        }
        begun = asyncio.get_running_loop().time()
        lines = self._client.lines(
            self._path,
            params=params,
            what=f"watch {failures.object_at(self._path)}",
            silence_s=SILENCE_S,
            opened=self._recovered,
        )
        async for line in lines:
            self._client.traffic.take(self._path, line)
            try:
                event = _decode(line)
            except NOT_JSON:
                break  # the connection broke inside a line
            self._take(event.type, event.object)
        if asyncio.get_running_loop().time() - begun < FIRST_PAUSE_S:
            await asyncio.sleep(FIRST_PAUSE_S)  # a server that ends each watch at once is not to be run down

    def _take(self, kind: str, one: Object) -> None:
        if kind == "ERROR":
            code = one.get("code")
            raise ClusterError(
                f"The watch of {failures.object_at(self._path)} ended: {one.get('message', 'no reason given')}",
                status=code if isinstance(code, int) else 0,
            )
        version = look.text(one, "metadata", "resourceVersion")
        if not version:
            raise failures.no_json(self._client.target, f"watch {failures.object_at(self._path)}")
        self._version = version
        if kind == "BOOKMARK":
            return
        if kind == "DELETED":
            self._drop(_key(one))
        else:
            self._put(_key(one), one)

    def _put(self, key: tuple[str, str], one: Object) -> None:
        one["metadata"].pop("managedFields", None)
        self.objects[key] = one
        self._tell(key, one)

    def _drop(self, key: tuple[str, str]) -> None:
        if self.objects.pop(key, None) is not None:
            self._tell(key, None)

    def _tell(self, key: tuple[str, str], one: Object | None) -> None:
        try:
            self._on_change(key, one)
        except Exception:  # one object's fault must not end the watch of the others
            _logger.exception("what changed of %s was not taken: %s", failures.object_at(self._path), "/".join(key))


def _key(one: Mapping[str, Any]) -> tuple[str, str]:
    metadata = one["metadata"]
    return metadata.get("namespace", ""), metadata["name"]
