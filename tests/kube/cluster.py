"""A real control plane on this machine, for tests: etcd, API server, scheduler and controller manager, built by
scripts/setup_kubernetes. Nodes are objects whose Leases are renewed; no kubelet runs their pods.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from ssl import create_default_context
from typing import Any

from tests.kube.authority import Authority

PROGRAMS = ("etcd", "kube-apiserver", "kube-scheduler", "kube-controller-manager", "kubectl")
WATCH_GATES = "WatchListClient=false"
"""A watch that begins with a list, asked of an API server that has just been started again, was seen to get no end of
that list for six minutes, until its timeout: controllers stood still. Without the gate they list, then watch."""
READY_WITHIN_S = 60.0
AWAY = (OSError, HTTPException, ValueError)
"""What asking an API server ends in that is not there, or that was ended in the middle of its answer."""
GANG_GATES = "GenericWorkload=true,TopologyAwareWorkloadScheduling=true,WorkloadWithJob=true"
GANG_APIS = "scheduling.k8s.io/v1beta1=true,scheduling.k8s.io/v1alpha3=true"
LEASE_EVERY_S = 10.0


def cache() -> Path:
    """Where scripts/setup_kubernetes put it."""
    if "IRONLOOM_KUBE_CACHE" in os.environ:
        return Path(os.environ["IRONLOOM_KUBE_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "ironloom", "kube")


def missing() -> list[str]:
    """Programs that are not there."""
    return [name for name in PROGRAMS if not (cache() / "bin" / name).exists()]


def free_ports(number: int) -> list[int]:
    """Ports of loopback that are free now, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


@dataclass
class Cluster:
    """One control plane in one folder. `start` and `stop`, or use it as a context manager."""

    folder: Path
    has_gangs: bool = False
    """With the feature gates of native gangs."""
    node_grace_s: int | None = None
    """How long a node may be silent before it counts as not ready; None for Kubernetes' own time."""
    manager_qps: int = 1000
    """Requests a second that the controller manager may ask. With Kubernetes' own 20 the accounts of its controllers
    keep it from everything else for seconds; bench/kube/control_plane.py measures the start."""
    services: str = field(default_factory=lambda: f"198.18.{os.getpid() % 16 * 16}.0/20")
    """The addresses of its Services, of those that no network has: https://www.rfc-editor.org/rfc/rfc2544."""
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    nodes: list[str] = field(default_factory=list)

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def server(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def kubeconfig(self) -> Path:
        """Of an administrator; its one context is `test`."""
        return self.folder / "kubeconfig"

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port, self.etcd_port, peer_port, self.scheduler_port, self.manager_port = free_ports(5)
        self.etcd_peer = f"http://127.0.0.1:{peer_port}"
        key, public = self.folder / "sa.key", self.folder / "sa.pub"
        _run("openssl", "genrsa", "-out", str(key), "2048")
        _run("openssl", "rsa", "-in", str(key), "-pubout", "-out", str(public))
        (self.folder / "tokens.csv").write_text(f"{self.token},admin,admin,system:masters\n")
        self.clients = Authority(self.folder / "clients")
        self.clients.make()
        self.start_etcd()
        self.start_api_server()
        self._write_kubeconfigs()
        self._start_controllers()
        self._heart = threading.Thread(target=self._renew_leases, daemon=True)
        self._stopping = threading.Event()
        self._heart.start()

    def stop(self) -> None:
        if hasattr(self, "_stopping"):
            self._stopping.set()
        for name in ("kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"):
            self.end(name)

    # --- parts ---

    def start_etcd(self) -> None:
        client = f"http://127.0.0.1:{self.etcd_port}"
        self.begin(
            "etcd",
            *("--data-dir", str(self.folder / "etcd"), "--unsafe-no-fsync", "--logger", "zap", "--log-level", "error"),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", self.etcd_peer, "--initial-advertise-peer-urls", self.etcd_peer),
            *("--initial-cluster", f"default={self.etcd_peer}"),
        )

    def start_api_server(self) -> None:
        """Also after it was ended: the port stays."""
        gates = ("--feature-gates", GANG_GATES, "--runtime-config", GANG_APIS) if self.has_gangs else ()
        self.begin(
            "kube-apiserver",
            *("--etcd-servers", f"http://127.0.0.1:{self.etcd_port}"),
            *("--secure-port", str(self.port), "--bind-address", "127.0.0.1", "--cert-dir", str(self.folder / "certs")),
            *("--service-account-key-file", str(self.folder / "sa.pub")),
            *("--service-account-signing-key-file", str(self.folder / "sa.key")),
            *("--service-account-issuer", "https://kubernetes.default.svc"),
            *("--token-auth-file", str(self.folder / "tokens.csv"), "--authorization-mode", "Node,RBAC"),
            *("--client-ca-file", str(self.clients.file)),
            *("--service-cluster-ip-range", self.services, "--allow-privileged=true"),
            *("--kubelet-preferred-address-types", "Hostname,InternalIP"),
            *("--audit-policy-file", self._audit_policy(), "--audit-log-path", str(self.folder / "audit.log")),
            *gates,
        )
        self.wait_ready()

    def wait_ready(self) -> None:
        """Until /readyz answers. Raises TimeoutError with what the API server wrote last."""
        deadline = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline:
            with contextlib.suppress(*AWAY):
                if self.request("GET", "/readyz", decode=False) == b"ok":
                    return
            if self.processes["kube-apiserver"].poll() is not None:
                break
            time.sleep(0.1)
        raise TimeoutError(f"the API server did not get ready:\n{self.log_of('kube-apiserver')[-2000:]}")

    def _start_controller_manager(self) -> None:
        self.begin(
            "kube-controller-manager",
            *("--kubeconfig", str(self.kubeconfig), "--service-account-private-key-file", str(self.folder / "sa.key")),
            *("--use-service-account-credentials", "--leader-elect=false", "--secure-port", str(self.manager_port)),
            *("--kube-api-qps", str(self.manager_qps), "--kube-api-burst", str(self.manager_qps * 3 // 2)),
            *(("--node-monitor-grace-period", f"{self.node_grace_s}s") if self.node_grace_s else ()),
            *("--cert-dir", str(self.folder / "certs"), "--bind-address", "127.0.0.1"),
            *self._gates_of_watchers(),
        )

    def _start_controllers(self) -> None:
        self._start_controller_manager()
        certs = ("--cert-dir", str(self.folder / "certs"), "--bind-address", "127.0.0.1")
        config = self.folder / "scheduler.json"
        config.write_text(
            json.dumps(
                {
                    "apiVersion": "kubescheduler.config.k8s.io/v1",
                    "kind": "KubeSchedulerConfiguration",
                    "clientConnection": {"kubeconfig": str(self.kubeconfig), "qps": 1000, "burst": 2000},
                    "leaderElection": {"leaderElect": False},
                }
            )
        )
        self.begin(
            "kube-scheduler",
            "--config",
            str(config),
            "--secure-port",
            str(self.scheduler_port),
            *certs,
            *self._gates_of_watchers(),
        )

    def _gates_of_watchers(self) -> tuple[str, str]:
        return "--feature-gates", f"{WATCH_GATES},{GANG_GATES}" if self.has_gangs else WATCH_GATES

    def begin(self, name: str, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        """Start a program of the cache; what it writes is kept in the folder."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [cache() / "bin" / name, *arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env
            )

    def end(self, name: str, number: int = signal.SIGTERM) -> None:
        """End a program by its process id, and wait until it is gone."""
        process = self.processes.pop(name, None)
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def log_of(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    # --- its API, as an administrator ---

    def request(
        self, method: str, path: str, body: Any = None, *, content: str = "application/json", decode: bool = True
    ) -> Any:
        """An answer's JSON. Raises urllib.error.HTTPError for a status from 400 on."""
        request = urllib.request.Request(
            f"{self.server}{path}",
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": content},
        )
        certificate = self.folder / "certs" / "apiserver.crt"
        if not certificate.exists():
            raise FileNotFoundError(certificate)
        with urllib.request.urlopen(
            request, context=create_default_context(cafile=str(certificate)), timeout=30
        ) as got:
            answer = got.read()
        return json.loads(answer) if decode else answer

    def add_node(
        self, name: str, *, labels: Mapping[str, str] | None = None, allocatable: Mapping[str, str] | None = None
    ) -> None:
        """A node that is ready and stays so. It runs nothing: its pods are bound and stay Pending."""
        capacity = {"cpu": "64", "memory": "512Gi", "pods": "110", **(allocatable or {})}
        lease = {"metadata": {"name": name}, "spec": {"holderIdentity": name, "leaseDurationSeconds": 40}}
        self.request("POST", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", lease)
        node = {"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}}}
        self.request("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", **node})
        status = {
            "capacity": capacity,
            "allocatable": capacity,
            "conditions": [
                {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": _now()},
            ],
            "nodeInfo": {"architecture": "amd64", "operatingSystem": "linux", "kubeletVersion": "v1.37.2"},
        }
        merge = "application/merge-patch+json"
        self.request("PATCH", f"/api/v1/nodes/{name}/status", {"status": status}, content=merge)
        self.nodes.append(name)

    def remove_node(self, name: str) -> None:
        """It is gone, with what was bound to it."""
        self.nodes.remove(name)
        self.request("DELETE", f"/api/v1/nodes/{name}")
        self.request("DELETE", f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}")

    def _renew_leases(self) -> None:
        while not self._stopping.wait(LEASE_EVERY_S):
            for name in list(self.nodes):
                with contextlib.suppress(*AWAY):  # an API server that a test has stopped
                    self.request(
                        "PATCH",
                        f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}",
                        {"spec": {"renewTime": _now(micro=True)}},
                        content="application/merge-patch+json",
                    )

    def run_pods(self, selector: str, *, namespace: str = "default", pod_ip: str = "127.0.0.1") -> Iterator[str]:
        """Say of the bound pods of a selector what a kubelet would: running, ready, at this address. Their names."""
        found = self.request("GET", f"/api/v1/namespaces/{namespace}/pods?labelSelector={selector}")
        for pod in found["items"]:
            if not pod["spec"].get("nodeName") or pod["metadata"].get("deletionTimestamp"):
                continue
            status = {
                "phase": "Running",
                "podIP": pod_ip,
                "podIPs": [{"ip": pod_ip}],
                "startTime": _now(),
                "conditions": [
                    {"type": kind, "status": "True", "lastTransitionTime": _now()}
                    for kind in ("Ready", "ContainersReady", "Initialized", "PodScheduled")
                ],
                "containerStatuses": [
                    {
                        "name": container["name"],
                        "ready": True,
                        "started": True,
                        "restartCount": 0,
                        "image": container["image"],
                        "imageID": "",
                        "state": {"running": {"startedAt": _now()}},
                    }
                    for container in pod["spec"]["containers"]
                ],
            }
            name = pod["metadata"]["name"]
            merge = "application/merge-patch+json"
            path = f"/api/v1/namespaces/{namespace}/pods/{name}/status"
            self.request("PATCH", path, {"status": status}, content=merge)
            yield name

    def bound(self, selector: str, *, namespace: str = "default") -> dict[str, str]:
        """Nodes of the pods of a selector that have one, by pod."""
        found = self.request("GET", f"/api/v1/namespaces/{namespace}/pods?labelSelector={selector}")["items"]
        return {one["metadata"]["name"]: one["spec"]["nodeName"] for one in found if one["spec"].get("nodeName")}

    def requests_of(self, agent: str) -> list[dict[str, Any]]:
        """The audit log's requests of one user agent's beginning, each once."""
        lines = (self.folder / "audit.log").read_text().splitlines()
        return [event for event in map(json.loads, lines) if str(event.get("userAgent", "")).startswith(agent)]

    def _audit_policy(self) -> str:
        path = self.folder / "audit.json"
        rules = [{"level": "Metadata", "omitStages": ["RequestReceived"]}]
        path.write_text(json.dumps({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}))
        return str(path)

    def _write_kubeconfigs(self) -> None:
        authority = base64.b64encode((self.folder / "certs" / "apiserver.crt").read_bytes()).decode()
        self.kubeconfig.write_text(json.dumps(kubeconfig(self.server, authority, self.token)))
        self.authority = authority


def kubeconfig(server: str, authority: str, token: str, *, namespace: str = "default") -> dict[str, Any]:
    """One of one context, `test`. `authority` is base64 of PEM."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority-data": authority}}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
        "current-context": "test",
    }


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _now(*, micro: bool = False) -> str:
    now = time.time()
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    return f"{text}.{int(now % 1 * 1e6):06d}Z" if micro else f"{text}Z"


def kubectl(cluster: Cluster, *arguments: str, text: str | None = None) -> Sequence[str]:
    """The real kubectl's lines. Raises subprocess.CalledProcessError."""
    done = subprocess.run(
        [cache() / "bin" / "kubectl", "--kubeconfig", str(cluster.kubeconfig), *arguments],
        input=text,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.splitlines()
