"""From zero to the first answer on a real kubelet: through the gateway, beside `kubectl scale` of the same pod.

    python bench/kube/zero_to_one.py --rounds 30 --write kube-zero-to-one

Needs root, scripts/setup_kubernetes, scripts/need_container_runtime and what `make image` needs. A control plane and a
kubelet with containerd and runc run on this machine; the gateway is a pod there, from its own image, and asked through
its Service. Interleaved rounds of two things, the order alternating:

  bare      `kubectl scale deployment/bare --replicas=1`, its process included; a watch of its pods, begun before, until
            one has an address, and a chat request sent to it every 20 ms until it is answered
  gateway   a chat request to the gateway, whose service is at zero

Both run one pod: the Deployment that the gateway made, and a copy of it. The goal: no more than 0.3 s over bare. How
long kubectl's own process took is told beside, as a gateway has no such start: without it, bare is quicker by that.
So are the parts of bare's time: kubectl, from there until the watch tells of an address, from there to the answer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import ssl
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.client import HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from scripts.build_image.__main__ import made, native
from tests.kube import test_real_kubelet as parts
from tests.kube.cluster import Cluster, kubectl
from tests.kube.gateway import Gateway, apply, installed
from tests.kube.image import ENGINE, ENGINE_ENV, GATEWAY, engine_command, engine_layer
from tests.kube.kubelet import RealNode, missing

import record

DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
PODS = "/api/v1/namespaces/default/pods"
WITHIN_S = 60.0
PAUSE_S = 0.02
CHAT = {"model": "a/b", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}


def until(holds: Callable[[], Any], pause_s: float = PAUSE_S) -> Any:
    """What `holds` gives once it is true. Raises TimeoutError."""
    deadline = time.monotonic() + WITHIN_S
    while not (found := holds()):
        if time.monotonic() > deadline:
            raise TimeoutError(holds.__name__)
        time.sleep(pause_s)
    return found


class Api:
    """The API server as its administrator: one connection that is kept, and one more for each watch."""

    def __init__(self, cluster: Cluster) -> None:
        self._port, self._headers = cluster.port, {"Authorization": f"Bearer {cluster.token}"}
        self._context = ssl.create_default_context(cafile=str(cluster.folder / "certs" / "apiserver.crt"))
        self._kept = self._connection()

    def _connection(self) -> HTTPSConnection:
        return HTTPSConnection("127.0.0.1", self._port, context=self._context, timeout=WITHIN_S)

    def _answer(self, connection: HTTPSConnection, method: str, path: str, body: Any = None) -> HTTPResponse:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {**self._headers, "Content-Type": "application/json"})
        return connection.getresponse()

    def get(self, path: str) -> Any:
        answer = self._answer(self._kept, "GET", path)
        found = json.loads(answer.read())
        if answer.status != HTTPStatus.OK:
            raise OSError(f"{path}: {found}")
        return found

    def remove(self, name: str) -> None:
        """A pod, at once; one that is gone meanwhile is not missed."""
        self._answer(self._kept, "DELETE", f"{PODS}/{name}", {"gracePeriodSeconds": 0}).read()

    def pods(self, selector: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get(f"{PODS}?labelSelector={selector}")["items"]
        return found

    @contextlib.contextmanager
    def watch(self, selector: str) -> Iterator[Iterator[dict[str, Any]]]:
        """Pods as they change from now on; the watch is there when the block begins."""
        version = self.get(f"{PODS}?labelSelector={selector}")["metadata"]["resourceVersion"]
        with contextlib.closing(self._connection()) as connection:
            answer = self._answer(
                connection, "GET", f"{PODS}?labelSelector={selector}&watch=1&resourceVersion={version}"
            )
            yield (json.loads(line)["object"] for line in iter(answer.readline, b""))


def bare_s(cluster: Cluster, api: Api) -> dict[str, float]:
    """Seconds from the command to the first answer as `bare`, and its parts."""

    def answer() -> bytes:
        request = urllib.request.Request(f"http://{host}:8000/v1/chat/completions", data=json.dumps(CHAT).encode())
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5) as got:
            return bytes(got.read())
        return b""

    with api.watch("app=bare") as changes:
        begun = time.monotonic()
        kubectl(cluster, "scale", "deployment/bare", "--replicas=1")
        scaled = time.monotonic()
        host = next(pod["status"]["podIP"] for pod in changes if pod["status"].get("podIP"))
    addressed = time.monotonic()
    until(answer)
    ended = time.monotonic()
    return {
        "bare": ended - begun,
        "kubectl": scaled - begun,
        "bare_to_address": addressed - scaled,
        "bare_address_to_answer": ended - addressed,
    }


def gateway_s(gateway: Gateway) -> dict[str, float]:
    begun = time.monotonic()
    gateway.ask("served", timeout_s=WITHIN_S)
    return {"gateway": time.monotonic() - begun}


def to_zero(cluster: Cluster, api: Api, gateway: Gateway) -> None:
    """Both, their pods gone."""
    gateway.call("POST", "/api/v1/services/served/scale", {"replicas": 0})
    kubectl(cluster, "scale", "deployment/bare", "--replicas=0")
    for path, selector in (("served", "ironloom.dev/service=served"), ("bare", "app=bare")):
        until(lambda path=path: not api.get(f"{DEPLOYMENTS}/{path}")["spec"]["replicas"])
        for pod in api.pods(selector):
            api.remove(pod["metadata"]["name"])
        until(lambda selector=selector: not api.pods(selector))


def bare_deployment(served: dict[str, Any]) -> dict[str, Any]:
    """The gateway's Deployment, under a name and labels of its own."""
    template = served["spec"]["template"]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "bare"},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": "bare"}},
            "template": {"metadata": {"labels": {"app": "bare"}}, "spec": template["spec"]},
        },
    }


def measure(rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = defaultdict(list)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cluster = stack.enter_context(Cluster(folder / "cluster"))
        node = stack.enter_context(RealNode(cluster))
        node.load(ENGINE, engine_layer(), engine_command(), ENGINE_ENV)
        node.offer("nvidia.com/gpu", 8)
        made(folder / "gateway.tar", native(), [GATEWAY], or_newest=True)
        node.ctr("images", "import", str(folder / "gateway.tar"))
        gateway = stack.enter_context(installed(cluster, GATEWAY, namespace="default"))
        apply(gateway, parts.manifest("served", **{"autoscaling.knative.dev/initial-scale": "0"}))
        served = cluster.request("GET", f"{DEPLOYMENTS}/served")
        cluster.request("POST", DEPLOYMENTS, bare_deployment(served))
        api = Api(cluster)
        gateway_s(gateway), bare_s(cluster, api)  # the first start reads files that later ones have in memory
        for number in range(rounds):
            to_zero(cluster, api, gateway)
            pair = [lambda: bare_s(cluster, api), lambda: gateway_s(gateway)]
            for one in pair if number % 2 else reversed(pair):
                for name, seconds in one().items():
                    times[name].append(round(seconds, 4))
            print(f"round {number + 1}: bare {times['bare'][-1]:.3f}, gateway {times['gateway'][-1]:.3f}", flush=True)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--write", metavar="NAME")
    options = parser.parse_args()
    if reason := missing():
        sys.exit(reason)
    times = measure(options.rounds)
    added = [through - bare for through, bare in zip(times["gateway"], times["bare"], strict=True)]
    beside = [one + process for one, process in zip(added, times["kubectl"], strict=True)]
    results = {
        "seconds": times,
        **{f"{name}_median_s": round(record.quantile(values, 0.5), 4) for name, values in times.items()},
        "added_median_s": round(record.quantile(added, 0.5), 4),
        "added_p90_s": round(record.quantile(added, 0.9), 4),
        "added_longest_s": round(max(added), 4),
        "added_to_bare_without_kubectl_median_s": round(record.quantile(beside, 0.5), 4),
        "goal_added_s": 0.3,
    }
    print(json.dumps({name: value for name, value in results.items() if name != "seconds"}, indent=1))
    if options.write:
        print(record.write(options.write, results))


if __name__ == "__main__":
    main()
