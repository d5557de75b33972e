"""A thousand services in one cluster: what applying them takes beside kubectl, and what a gateway then costs.

    python bench/kube/services_1000.py apply --write kube-apply-1000
    python bench/kube/services_1000.py apply --services 200 --files 5 --objects --write kube-apply-200
    python bench/kube/services_1000.py apply --services 200 --replicas 1 --objects --write kube-apply-200-replicas
    python bench/kube/services_1000.py idle --write kube-idle-1000

Needs scripts/setup_kubernetes. A real etcd, API server, scheduler and controller manager run on this machine, with
simulated nodes; the gateway is one of a group (`ironloom up --shared`), as `ironloom install` runs it.

apply: the same manifests, Deployments of vLLM's image, so many --services from one file, in an order that goes round:

  context           `ironloom apply -f FILE -y --context NAME`, its process included: what is found in the manifests and
                    the room of the nodes first, then the gateway through the API server's proxy of its pod, with a key
  url               the same with IRONLOOM_URL in place of --context: the gateway asked directly, and nothing before
  kubectl           `kubectl apply --server-side -f FILE` of the same manifests: one object each
  objects           with --objects: the same of the objects that Ironloom made of them, at the end of each round

each of a file that is new, and again of the same file, where nothing has changed. All are taken with the CPU time of
all parts. The controller manager works at the objects of one way while the next one runs, 20 requests a second as by
default.

idle: all are applied from one file; then memory of the gateway (proportional set size), its CPU time, its requests to
the API server and what its watches bring, over --idle-s seconds with all services at zero, and again with --pods of
them at one replica. The controller manager may ask more often than by default, or it would be at it for minutes.

The goals: apply in at most 1.2 of kubectl's time for the same manifests; at most 0.5 requests a second while idle.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from tests.kube.cluster import Cluster, cache, missing
from tests.kube.gateway import Gateway, running

import record
from yardstick import Yardstick

WITHIN_S = 240.0
GPUS_A_NODE = 8
WAYS = ("context", "url", "kubectl")
OURS = WAYS[:2]
PEERS = ("kubectl", "objects")
"""Namespaces of what kubectl applies."""
POD = "gateway-0"
SAMPLE = re.compile(r"^(ironloom_kubernetes_\w+)\{(.*)\} (\d+)$", re.MULTILINE)


def manifest(name: str, replicas: int = 0) -> dict[str, Any]:
    container = {
        "name": "engine",
        "image": "vllm/vllm-openai:v0.26.0",
        "args": ["--model", "a/b", "--port", "8000"],
        "ports": [{"containerPort": 8000}],
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}},
        },
    }


def timed(command: Sequence[str], env: dict[str, str]) -> float:
    """Seconds of a command. Raises subprocess.CalledProcessError."""
    begun = time.monotonic()
    subprocess.run(command, env=env, check=True, capture_output=True)
    return time.monotonic() - begun


def cpu_s(pid: int) -> float:
    """Of a process from its start, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return round(int(line.split()[1]) / 1024, 1)
    raise LookupError("Pss")


def pid_of(gateway: Gateway) -> int:
    assert gateway.process is not None, "it is a process here"
    return gateway.process.pid


@dataclass
class Reading:
    """What one gateway had done at a moment."""

    pid: int
    at_s: float = field(default_factory=time.monotonic)
    cpu_s: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    """Samples of its metrics by name and labels."""

    @classmethod
    def of(cls, gateway: Gateway) -> Reading:
        headers = {"Authorization": f"Bearer {gateway.key}"} if gateway.key else {}
        asked = urllib.request.Request(f"{gateway.url}/metrics", headers=headers)
        with urllib.request.urlopen(asked, timeout=60) as answer:
            text = answer.read().decode()
        counts = {f"{name}{{{labels}}}": int(value) for name, labels, value in SAMPLE.findall(text)}
        pid = pid_of(gateway)
        return cls(pid=pid, cpu_s=cpu_s(pid), counts=counts)

    def since(self, before: Reading) -> dict[str, Any]:
        """What was done between two readings."""
        seconds = self.at_s - before.at_s
        counts = {name: number - before.counts.get(name, 0) for name, number in self.counts.items()}
        requests = {name: number for name, number in counts.items() if "_requests_total" in name and number}
        events = sum(number for name, number in counts.items() if "_watch_events_total" in name)
        event_bytes = sum(number for name, number in counts.items() if "_watch_bytes_total" in name)
        return {
            "seconds": round(seconds, 1),
            "pss_mib": pss_mib(self.pid),
            "cpu_share": round((self.cpu_s - before.cpu_s) / seconds, 4),
            "requests_per_s": round(sum(requests.values()) / seconds, 3),
            "requests": requests,
            "watch_events": events,
            "watch_bytes": event_bytes,
        }


def over(gateway: Gateway, seconds: float) -> dict[str, Any]:
    before = Reading.of(gateway)
    time.sleep(seconds)
    return Reading.of(gateway).since(before)


def until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.2)


# --- applying ---

COLLECTIONS = (
    "/apis/apps/v1/namespaces/default/deployments",
    "/api/v1/namespaces/default/services",
    "/api/v1/namespaces/default/configmaps",
)
LEFT_OUT = (
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "managedFields",
    "namespace",
    "ownerReferences",  # an owner of another namespace is none: what it owns would be collected
)


def objects_of(cluster: Cluster, names: set[str]) -> list[dict[str, Any]]:
    """What Ironloom made of services, without what the API server added."""
    found = []
    for path in COLLECTIONS:
        listed = cluster.request("GET", f"{path}?labelSelector=ironloom.dev/service")
        for one in listed["items"]:
            if one["metadata"]["labels"]["ironloom.dev/service"] not in names:
                continue
            metadata = {key: value for key, value in one["metadata"].items() if key not in LEFT_OUT}
            metadata["annotations"] = {
                key: value
                for key, value in metadata.get("annotations", {}).items()
                if not key.startswith("deployment.")
            }
            one = {"apiVersion": listed["apiVersion"], "kind": listed["kind"].removesuffix("List"), **one}
            one = {key: value for key, value in one.items() if key != "status"} | {"metadata": metadata}
            for key in ("clusterIP", "clusterIPs"):
                one.get("spec", {}).pop(key, None)
            found.append(one)
    return found


@dataclass
class Race:
    """Files of manifests, applied several ways into one cluster."""

    cluster: Cluster
    gateway: Gateway
    folder: Path
    num_files: int = 0

    def begin(self) -> None:
        for namespace in PEERS:
            self.cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})

    def run(self, yard: Yardstick, *, num_files: int, block: int, replicas: int, has_objects: bool) -> dict[str, Any]:
        """Files of so many services that are new, each applied in all ways, and again."""
        first: dict[str, list[float]] = {way: [] for way in (*WAYS, *(("objects",) if has_objects else ()))}
        again: dict[str, list[float]] = {way: [] for way in WAYS}
        cpu_ms: dict[str, Counter[str]] = {way: Counter() for way in first}
        num_objects = 0

        def take(name: str, way: Callable[[], float]) -> None:
            before = self._cpu_s()
            first[name].append(round(way(), 3))
            after = self._cpu_s()
            cpu_ms[name].update({part: 1000 * (after[part] - before[part]) for part in after})

        for _ in range(num_files):
            turn = self.num_files % len(WAYS)
            self.num_files += 1
            names = {way: [f"{way}-{self.num_files:02d}-{index:04d}" for index in range(block)] for way in WAYS}
            for way in (*WAYS[turn:], *WAYS[:turn]):
                file = self.file(way, [manifest(name, replicas) for name in names[way]])
                apply = {"context": self.by_context, "url": self.ironloom}.get(way, self.kubectl)
                take(way, lambda apply=apply, file=file: apply(file))
                again[way].append(round(apply(file), 3))
            made = objects_of(self.cluster, set(names["context"]))
            num_objects += len(made)
            if has_objects:
                written = self.file("made", made)
                take("objects", lambda file=written: self.kubectl(file, "objects"))
            yard.round()
            told = [f"{way} {taken[-1]:.2f}" for way, taken in first.items()]
            told += [f"{way} again {taken[-1]:.2f}" for way, taken in again.items()]
            print(f"{block} services, {replicas} replicas each: {', '.join(told)}", flush=True)
        num_services = num_files * block
        return {
            "num_files": num_files,
            "services_a_file": block,
            "replicas": replicas,
            "objects_a_service": round(num_objects / num_services, 2),
            "seconds": first,
            "seconds_again": again,
            "by_kubectl": {way: ratios(first[way], first["kubectl"]) for way in OURS},
            "by_kubectl_again": {way: ratios(again[way], again["kubectl"]) for way in OURS},
            "by_kubectl_of_objects": {way: ratios(first[way], first["objects"]) for way in OURS if has_objects},
            "cpu_ms_a_service": {
                way: {part: round(taken / num_services, 2) for part, taken in parts.items()}
                for way, parts in cpu_ms.items()
            },
        }

    def _cpu_s(self) -> dict[str, float]:
        """CPU time until now: of each part of the control plane, of the gateway, and of the commands that ended."""
        parts = {name: cpu_s(process.pid) for name, process in self.cluster.processes.items()}
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {**parts, "gateway": cpu_s(pid_of(self.gateway)), "command": used.ru_utime + used.ru_stime}

    def file(self, name: str, objects: list[dict[str, Any]]) -> Path:
        path = self.folder / f"{name}.yaml"
        path.write_text("\n---\n".join(map(json.dumps, objects)))
        return path

    def ironloom(self, file: Path) -> float:
        env = {"IRONLOOM_URL": self.gateway.url, "IRONLOOM_API_KEY": self.gateway.key}
        return self._applied(file, env)

    def by_context(self, file: Path) -> float:
        return self._applied(file, {"KUBECONFIG": str(self.cluster.kubeconfig)}, "--context", "test")

    def _applied(self, file: Path, env: dict[str, str], *more: str) -> float:
        command = [sys.executable, "-m", "ironloom.cli", "apply", "-f", str(file), "-y", *more]
        return timed(command, {**os.environ, "IRONLOOM_HOME": str(self.folder / "home"), **env})

    def kubectl(self, file: Path, namespace: str = "kubectl") -> float:
        program = str(cache() / "bin" / "kubectl")
        command = [program, "--kubeconfig", str(self.cluster.kubeconfig), "-n", namespace]
        return timed([*command, "apply", "--server-side", "-f", str(file)], dict(os.environ))


# --- pods ---


def bring_up(cluster: Cluster, gateway: Gateway, names: list[str]) -> None:
    """One replica each; the scheduler binds their pods, and they are said to run."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: gateway.call("POST", f"/api/v1/services/{name}/scale", {"replicas": 1}), names))
    pods = "/api/v1/namespaces/default/pods?labelSelector=ironloom.dev/service"

    def bound() -> bool:
        return sum(bool(pod["spec"].get("nodeName")) for pod in cluster.request("GET", pods)["items"]) == len(names)

    until(bound, "pods are bound")
    list(cluster.run_pods("ironloom.dev/service"))
    until(
        lambda: sum(one["state"] == "ready" for one in gateway.call("GET", "/api/v1/services")) == len(names), "ready"
    )


def settled(cluster: Cluster, num_deployments: int) -> None:
    """Until the controller manager has seen every Deployment."""

    def seen() -> bool:
        listed = cluster.request("GET", "/apis/apps/v1/deployments")["items"]
        return sum(one["status"].get("observedGeneration", 0) >= 1 for one in listed) == num_deployments

    until(seen, "the controller manager has caught up")


def ready(cluster: Cluster, folder: Path, stack: contextlib.ExitStack) -> Gateway:
    """A gateway that decides."""
    (folder / "state").mkdir()
    gateway = stack.enter_context(running(cluster, folder / "state", "--shared"))
    until(lambda: Reading.of(gateway).counts.get(RENEWALS, 0) > 0, "the gateway decides")
    return gateway


def ready_in_cluster(cluster: Cluster, folder: Path, stack: contextlib.ExitStack, num_nodes: int) -> Gateway:
    """One that decides, as `ironloom install` makes it: with a control key, and reached as the pod that its Lease
    names. It is a process here, and its pod one that no kubelet runs, at this machine's own address."""
    for number in range(num_nodes):
        cluster.add_node(f"node-{number:03d}", allocatable={"nvidia.com/gpu": str(GPUS_A_NODE)})
    address, env = own_address(), {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}
    timed([sys.executable, "-m", "ironloom.cli", "install", "--context", "test"], env)
    secret = cluster.request("GET", "/api/v1/namespaces/default/secrets/ironloom-key")
    (folder / "state").mkdir()
    token = folder / "state" / "token"
    token.write_bytes(b64decode(secret["data"]["token"]))
    containers = [{"name": "gateway", "image": "ironloom"}]
    spec = {"nodeName": cluster.nodes[0], "serviceAccountName": "ironloom", "containers": containers}
    pod = {"metadata": {"name": POD, "labels": {"pod": POD}}, "spec": spec}
    cluster.request("POST", "/api/v1/namespaces/default/pods", pod)
    list(cluster.run_pods(f"pod={POD}", pod_ip=address))
    os.environ.update(POD_NAME=POD, POD_IP=address)
    more = ("--shared", "--host", "0.0.0.0", "--control-key-file", str(token))
    gateway = stack.enter_context(running(cluster, folder / "state", *more))
    gateway.key = token.read_text()
    until(lambda: Reading.of(gateway).counts.get(RENEWALS, 0) > 0, "the gateway decides")
    return gateway


def own_address() -> str:
    """This machine's, off loopback: the API server's proxy goes to no other kind. Raises OSError for none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # nothing is sent
        return str(probe.getsockname()[0])


def measure_apply(options: argparse.Namespace) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cluster = stack.enter_context(Cluster(folder / "cluster", manager_qps=20))  # Kubernetes' own
        gateway = ready_in_cluster(cluster, folder, stack, options.nodes)
        race, before, yard = Race(cluster, gateway, folder), Reading.of(gateway), Yardstick()
        race.begin()
        raced = race.run(
            yard,
            num_files=options.files,
            block=options.services,
            replicas=options.replicas,
            has_objects=options.objects,
        )
        applied = Reading.of(gateway).since(before)
    return {
        **raced,
        "num_nodes": options.nodes,
        "goal_by_kubectl": 1.2,
        "gateway": applied,
        "yardstick": yard.summary(),
    }


def measure_idle(options: argparse.Namespace) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cluster = stack.enter_context(Cluster(folder / "cluster"))
        for number in range((options.pods + GPUS_A_NODE - 1) // GPUS_A_NODE):
            cluster.add_node(f"node-{number:03d}", allocatable={"nvidia.com/gpu": str(GPUS_A_NODE)})
        gateway = ready(cluster, folder, stack)
        empty = over(gateway, 10.0)
        race, before = Race(cluster, gateway, folder), Reading.of(gateway)
        names = [f"s{index:04d}" for index in range(options.services)]
        took_s = race.ironloom(race.file("manifests", [manifest(name) for name in names]))
        applied = Reading.of(gateway).since(before)
        settled(cluster, options.services)
        at_zero = over(gateway, options.idle_s)
        before = Reading.of(gateway)
        bring_up(cluster, gateway, names[: options.pods])
        scaled = Reading.of(gateway).since(before)
        with_pods = over(gateway, options.idle_s)
    return {
        "num_services": options.services,
        "num_pods": options.pods,
        "without_services": empty,
        "applied_at_once_s": round(took_s, 2),
        "while_applying": applied,
        "at_zero": at_zero,
        "while_pods_start": scaled,
        "with_pods": with_pods,
        "goal_requests_per_s": 0.5,
    }


RENEWALS = 'ironloom_kubernetes_requests_total{verb="create",resource="leases"}'


def ratios(ours: list[float], theirs: list[float]) -> dict[str, float]:
    found = sorted(one / other for one, other in zip(ours, theirs, strict=True))
    return {
        "median": round(record.quantile(found, 0.5), 2),
        "lowest": round(found[0], 2),
        "highest": round(found[-1], 2),
        "of_sums": round(sum(ours) / sum(theirs), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["apply", "idle"])
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--files", type=int, default=3, help="of so many services each")
    parser.add_argument("--replicas", type=int, default=0, help="that each service has from the start")
    parser.add_argument("--objects", action="store_true", help="also kubectl with the objects that Ironloom makes")
    parser.add_argument("--nodes", type=int, default=8, help=f"with {GPUS_A_NODE} GPUs each")
    parser.add_argument("--pods", type=int, default=100, help="services that get a replica at the end")
    parser.add_argument("--idle-s", type=float, default=30.0)
    parser.add_argument("--write", metavar="NAME")
    options = parser.parse_args()
    if absent := missing():
        sys.exit(f"no {absent[0]}: run scripts/setup_kubernetes")
    results = measure_apply(options) if options.what == "apply" else measure_idle(options)
    print(json.dumps(results, indent=1))
    if options.write:
        print(record.write(options.write, results))


if __name__ == "__main__":
    main()
