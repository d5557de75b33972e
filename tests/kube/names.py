"""A cluster's name service, played: the names of Services, and of pods behind headless ones, as CoreDNS has them.

Source: https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

from tests.kube.cluster import AWAY, Cluster

DOMAIN = "cluster.local"
PORT = 53
_A, _IN = 1, 1
_ANSWER, _NO_SUCH_NAME = 0x8580, 0x8583
"""Flags: a response, authoritative, recursion available; without an error, and with that one (RFC 1035, 4.1.1)."""


class Names:
    """Answers on an address until it is closed."""

    def __init__(self, address: str, cluster: Cluster) -> None:
        self._cluster = cluster
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((address, PORT))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _run(self) -> None:
        while True:
            try:
                query, sender = self._socket.recvfrom(512)
            except OSError:
                return
            with contextlib.suppress(*AWAY, IndexError, struct.error):  # no query, or an API server away
                self._socket.sendto(self._answer(query), sender)

    def _answer(self, query: bytes) -> bytes:
        labels, at = [], 12
        while (length := query[at]) != 0:
            labels.append(query[at + 1 : at + 1 + length].decode())
            at += 1 + length
        question = query[12 : at + 5]
        kind, of = struct.unpack("!HH", query[at + 1 : at + 5])
        address = self._address_of(".".join(labels))
        has_one = address is not None and (kind, of) == (_A, _IN)
        head = query[:2] + struct.pack(
            "!HHHHH", _ANSWER if address is not None else _NO_SUCH_NAME, 1, int(has_one), 0, 0
        )
        if address is None or not has_one:
            return head + question
        record = b"\xc0\x0c" + struct.pack("!HHIH", _A, _IN, 1, 4) + socket.inet_aton(address)
        return head + question + record

    def _address_of(self, name: str) -> str | None:
        """`HOSTNAME.SUBDOMAIN.NAMESPACE.svc.cluster.local`, while its pod has an address and is not ending, and
        `SERVICE.NAMESPACE.svc.cluster.local` where it has one.
        """
        words = name.lower().removesuffix(".").split(".")
        if words[2:] == ["svc", *DOMAIN.split(".")]:
            return self._address_of_service(*words[:2])
        if words[3:] != ["svc", *DOMAIN.split(".")]:
            return None
        hostname, subdomain, namespace = words[:3]
        pods = self._cluster.request("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]
        for pod in pods:
            spec, status = pod["spec"], pod["status"]
            is_named = (spec.get("hostname"), spec.get("subdomain")) == (hostname, subdomain)
            if is_named and status.get("podIP") and status.get("phase") in {"Pending", "Running"}:
                return str(status["podIP"])
        return None

    def _address_of_service(self, name: str, namespace: str) -> str | None:
        services = self._cluster.request("GET", f"/api/v1/namespaces/{namespace}/services")["items"]
        found = {one["metadata"]["name"]: str(one["spec"].get("clusterIP", "None")) for one in services}
        return None if found.get(name, "None") == "None" else found[name]
