"""Snapshots changed at random: values of their objects, their layout, their bytes, their packing."""

from __future__ import annotations

import copy
import gzip
import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from bench import fleet_load
from bench.check import mutate

Object = dict[str, Any]
_DIGITS = "9" * 5000
ODD_AMOUNTS = ("1Zi", "1ei", "12e", "0x8", "-3", "1e400", _DIGITS, "1m", "0.1", ".5", "8 ", " 8", "８", "1,5", "NaN",
               "Inf", "1Ki1", "+8", "1e-400", "9223372036854775808", "1_000")  # fmt: skip
"""What stands where an amount should: wrong units, other digits, more than any number holds."""
ODD_VALUES: tuple[Any, ...] = (*mutate.ODD_VALUES, *ODD_AMOUNTS, 1e308, -1e308, 2**64, "Node", "PodList", "\ud800",
                               "[" * 2000, "a: &a [*a]", ["\ud800"], {"\ud800": "\ud800"}, "\\u0000")  # fmt: skip
KINDS = ("Node", "Pod", "List", "PodList", "NodeList", "Secret", "ConfigMap", "ClusterQueue", "Topology", "NodePool",
         "", "node", "Status")  # fmt: skip
VERSIONS = ("v1", "v2", "", "/", "a/b/c", "kueue.x-k8s.io/v1beta1", "kueue.x-k8s.io/v1beta2", "resource.k8s.io/v1")


def objects() -> list[Object]:
    """A small cluster of a GPU cloud, with an object of each kind that more than the name is read of."""
    return [*fleet_load.objects(5, 12), *_others()]


def _others() -> Iterator[Object]:
    leaf = "backend.coreweave.cloud/leafgroup"
    flavor = {"name": "h100", "resources": [{"name": "nvidia.com/gpu", "nominalQuota": "40", "borrowingLimit": 8}]}
    yield _made("v1", "Namespace", "team-0", labels={"team": "0"})
    yield _made("scheduling.k8s.io/v1", "PriorityClass", "training", value=1000, globalDefault=False)
    yield _made("policy/v1", "PodDisruptionBudget", "b", spec={"selector": {"matchLabels": {"a": "b"}}},
                status={"disruptionsAllowed": 0})  # fmt: skip
    used = {"name": "h100", "resources": [{"name": "nvidia.com/gpu", "total": "16", "borrowed": "0"}]}
    yield _made("kueue.x-k8s.io/v1beta2", "ClusterQueue", "all",
                spec={"cohortName": "c", "namespaceSelector": {}, "resourceGroups": [
                    {"coveredResources": ["nvidia.com/gpu"], "flavors": [flavor]}]},
                status={"flavorsReservation": [used], "conditions": [{"type": "Active", "status": "True"}]},
    )  # fmt: skip
    yield _made("kueue.x-k8s.io/v1beta2", "LocalQueue", "team-0", "team-0", spec={"clusterQueue": "all"})
    yield _made("kueue.x-k8s.io/v1beta2", "ResourceFlavor", "h100",
                spec={"nodeLabels": {"node.coreweave.cloud/class": "gpu"}, "topologyName": "t", "nodeTaints": [
                    {"key": "is_gpu", "effect": "NoSchedule"}]})  # fmt: skip
    yield _made("kueue.x-k8s.io/v1beta2", "Topology", "t", spec={"levels": [{"nodeLabel": leaf}]})
    yield _made("kueue.x-k8s.io/v1beta2", "Cohort", "c", spec={"resourceGroups": [{"flavors": [flavor]}]})
    yield _made("compute.coreweave.com/v1alpha1", "NodePool", "h100-0",
                spec={"instanceType": "gd-8xh100ib-i128", "targetNodes": 5, "autoscaling": True, "maxNodes": 9,
                      "nodeLabels": {"a": "b"}, "nodeTaints": [{"key": "a", "effect": "NoSchedule"}]},
                status={"currentNodes": 5, "conditions": [{"type": "Accepted", "status": "False"}]})  # fmt: skip
    requirement = {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["p5.48xlarge"]}
    yield _made("karpenter.sh/v1", "NodePool", "k", spec={"limits": {"cpu": "1000", "nvidia.com/gpu": 16}, "template": {
        "metadata": {"labels": {"a": "b"}}, "spec": {"requirements": [requirement], "nodeClassRef": {"name": "ec2"}}},
        "disruption": {"consolidateAfter": "Never"}})  # fmt: skip
    yield _made("karpenter.k8s.aws/v1", "EC2NodeClass", "ec2", status={
        "conditions": [{"type": "Ready", "status": "False", "message": "no subnets"}],
        "capacityReservations": [{"id": "cr-1", "instanceType": "p5.48xlarge"}]})  # fmt: skip
    for version, kind in (("cluster.x-k8s.io/v1beta2", "MachineDeployment"), ("cluster.x-k8s.io/v1beta1", "MachineSet"),
                          ("machine.openshift.io/v1beta1", "MachineSet")):  # fmt: skip
        made = _made(version, kind, kind.lower(), "default", spec={"replicas": 1})
        made["metadata"]["annotations"] = {
            "cluster.x-k8s.io/cluster-api-autoscaler-node-group-min-size": "1",
            "cluster.x-k8s.io/cluster-api-autoscaler-node-group-max-size": "5",
            "capacity.cluster-autoscaler.kubernetes.io/gpu-count": "8",
            "capacity.cluster-autoscaler.kubernetes.io/labels": "a=b,c",
        }
        yield made
    device = {"name": "gpu-0", "attributes": {"type": {"string": "gpu"}}}
    yield _made("resource.k8s.io/v1", "ResourceSlice", "s", spec={
        "driver": "gpu.nvidia.com", "nodeName": "g000000", "pool": {"name": "g000000", "generation": 1},
        "devices": [device, {**device, "name": "gpu-1"}]})  # fmt: skip
    result = {"request": "gpu", "driver": "gpu.nvidia.com", "pool": "g000000", "device": "gpu-0"}
    yield _made("resource.k8s.io/v1", "ResourceClaim", "c", "team-0",
                spec={"devices": {"requests": [{"exactly": {"deviceClassName": "gpu.nvidia.com", "count": 1}}]}},
                status={"allocation": {"devices": {"results": [result]}},
                        "reservedFor": [{"resource": "pods", "name": "train-00000-node-0-0-00000"}]})  # fmt: skip
    yield _made("v1", "ConfigMap", "cluster-autoscaler-status", "kube-system",
                data={"status": "nodeGroups:\n- name: h100-0\n  health: {cloudProviderTarget: 2, maxSize: 6}\n"},
    )  # fmt: skip
    yield _made("v1", "Secret", "hf-token", "team-0", data={"token": "aGY="})
    yield _made("apps/v1", "Deployment", "web", "team-0", spec={"replicas": 1})
    pod = _made("v1", "Pod", "grows", "team-0", spec={
        "nodeName": "g000001", "overhead": {"cpu": "100m"}, "resources": {"requests": {"memory": "1Gi"}},
        "schedulingGroup": {"podGroupName": "g"}, "workloadRef": {"name": "w"}, "schedulingGates": [{"name": "x"}],
        "containers": [{"name": "a", "resources": {"limits": {"nvidia.com/gpu": 1}}}],
        "initContainers": [{"name": "b", "restartPolicy": "Always", "resources": {"requests": {"cpu": 2}}}]},
        status={"phase": "Running", "conditions": [{"type": "PodResizePending", "reason": "Infeasible"}],
                "containerStatuses": [{"name": "a", "allocatedResources": {"cpu": "1"},
                                       "resources": {"requests": {"cpu": "1"}}}]})  # fmt: skip
    yield pod


def _made(
    api_version: str, kind: str, name: str, namespace: str = "", labels: dict[str, str] | None = None, **rest: Any
) -> Object:
    metadata: Object = {"name": name, "labels": labels or {}}
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **rest}


def changed(seed: Sequence[Object], random_: random.Random) -> list[Any]:
    """The objects with up to three changes."""
    found: list[Any] = copy.deepcopy(list(seed))
    for _ in range(random_.choice((0, 1, 1, 1, 2, 3))):
        if not found:
            break
        at = random_.randrange(len(found))
        kind = random_.randrange(12)
        if kind == 0:
            found[at] = copy.deepcopy(random_.choice(ODD_VALUES))
        elif kind == 1 and isinstance(found[at], dict):
            found[at][random_.choice(("kind", "apiVersion"))] = random_.choice((*KINDS, *VERSIONS))
        elif kind == 2:
            found.append(copy.deepcopy(found[at]))
        elif kind == 3:
            found = [one for one in found if random_.random() < 0.5]
        elif kind == 4 and isinstance(found[at], dict):
            found[at] = {"apiVersion": "v1", "kind": f"{found[at].get('kind')}List", "items": [found[at]]}
        else:
            places = list(mutate.places(found[at]))
            if places:
                parent, key = random_.choice(places)
                if random_.random() < 0.5:
                    parent[key] = copy.deepcopy(random_.choice(ODD_VALUES))
                else:
                    mutate.change(parent, key, random_)
    return found


def laid_out(found: list[Any], random_: random.Random) -> bytes:
    """The objects as one of the texts that people have: kubectl's, a snapshot's, one a line, compact, YAML."""
    head = {"apiVersion": "v1", "kind": "List", "metadata": {"annotations": {
        "ironloom.dev/server-version": "v1.36.1", "ironloom.dev/kinds-served": "apps/v1/Deployment,v1/Pod",
        "ironloom.dev/kinds-listed": "/Secret,/ConfigMap"}}}  # fmt: skip
    if random_.random() < 0.2:
        parent, key = random_.choice(list(mutate.places(head)))
        parent[key] = copy.deepcopy(random_.choice((*ODD_VALUES, f"v1.{_DIGITS}", "1.36+k3s", "v.", "a,,b,/,")))
    kind = random_.randrange(6)
    if kind == 0:
        return _text(json.dumps({**head, "items": found}, indent=4))
    if kind == 1:
        return _text(json.dumps({**head, "items": found}, separators=(",", ":")))
    if kind == 2:
        lines = ",\n".join(json.dumps(one) for one in found)
        return _text(json.dumps(head)[:-1] + ',"items":[\n' + lines + "\n]}\n")
    if kind == 3:
        return _text("\n".join(json.dumps(one) for one in found))
    if kind == 4:
        return _text(json.dumps(found, ensure_ascii=False))
    try:
        whole = {**head, "items": found}
        dumper = yaml.CSafeDumper if random_.random() < 0.5 else _NoAliases
        return _text(yaml.dump(whole, Dumper=dumper, sort_keys=False, allow_unicode=random_.random() < 0.5))
    except (yaml.YAMLError, UnicodeError):
        return _text(json.dumps(found))


class _NoAliases(yaml.CSafeDumper):
    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def damaged(data: bytes, random_: random.Random) -> bytes:
    """Bytes cut, flipped, put in; brackets without end; a pack that is broken."""
    at = random_.randrange(len(data) + 1)
    kind = random_.randrange(10)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + data[at + random_.randint(1, 40) :]
    if kind == 2 and at < len(data):
        return data[:at] + bytes([data[at] ^ 1 << random_.randrange(8)]) + data[at + 1 :]
    if kind == 3:
        odd = random_.choice((b"\x00", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\\ud800", b'"', b"\n", b",", b"]}"))
        return data[:at] + odd + data[at:]
    if kind == 4:
        return data[:at] + random_.choice((b"[", b'{"a":', b"[{")) * random_.choice((50, 500, 5000)) + data[at:]
    if kind == 5:
        return data + data[: random_.randrange(len(data) + 1)]
    if kind == 6:
        return random_.choice((b"\xff\xfe", b"\xef\xbb\xbf", b" \n\t", b"---\n", b"# a\n")) + data
    if kind == 7:
        packed = bytearray(gzip.compress(data, 1))
        if random_.random() < 0.7:
            where = random_.randrange(len(packed))
            packed[where] ^= 1 << random_.randrange(8)
        return bytes(packed[: random_.randrange(len(packed) + 1)] if random_.random() < 0.3 else packed)
    return data


def mutated(seed: Sequence[Object], random_: random.Random) -> Iterator[tuple[list[Any], bytes]]:
    """Without end: the objects of a snapshot, and the bytes of its file."""
    while True:
        found = changed(seed, random_)
        data = laid_out(found, random_)
        for _ in range(random_.choice((0, 0, 1, 1, 2))):
            data = damaged(data, random_)
        yield found, data
