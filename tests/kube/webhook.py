"""An admission webhook that refuses everything, as a policy engine of a cluster would."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.kube.authority import Authority
from tests.kube.cluster import Cluster

CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"


class _Refuse(BaseHTTPRequestHandler):
    words = ""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "response": {"uid": asked["request"]["uid"], "allowed": False, "status": {"message": self.words}},
        }
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def refusing(authority: Authority, words: str) -> Iterator[int]:
    """The port of loopback where it answers."""
    authority.issue("webhook", is_server=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.folder / "webhook.pem", authority.folder / "webhook.key")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Refuse,), {"words": words}))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@contextlib.contextmanager
def registered(cluster: Cluster, name: str, port: int, *, resource: str, namespace: str) -> Iterator[None]:
    """The API server asks it of one resource of one namespace; `pods`, or `apps/deployments`."""
    group, _, kind = resource.rpartition("/")
    hook: dict[str, Any] = {
        "name": name,
        "clientConfig": {"url": f"https://127.0.0.1:{port}/", "caBundle": cluster.clients.data("ca.pem")},
        "rules": [
            {"apiGroups": [group], "apiVersions": ["*"], "resources": [kind], "operations": ["CREATE", "UPDATE"]}
        ],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 5,
    }
    body = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [hook],
    }
    cluster.request("POST", CONFIGURATIONS, body)
    try:
        yield
    finally:
        cluster.request("DELETE", f"{CONFIGURATIONS}/{name}")
