"""How long and in how much memory a fleet of 10,000 nodes and 100,000 pods is read from a file.

    python bench/fleet_load.py [--nodes N] [--pods N] [--runs N] [--folder DIR]

Objects are generated with the shape of real ones (labels, conditions, managed fields, volumes, statuses) and written in
both forms that people have: `ironloom snapshot` (stripped, one object a line) and `kubectl get -o json` (whole,
indented). Each reading is a process of its own, so that its peak memory is its own. Beside it stands json.load of the
snapshot's file, which only parses.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

import record
from ironloom.fleet.strip import write_snapshot
from yardstick import Yardstick

NODES_PER_LEAF, LEAVES_PER_SUPERPOD = 16, 16
OURS = """
import resource, sys, time
from ironloom.fleet.snapshot import read_snapshot
begin, cpu = time.perf_counter(), time.process_time()
fleet = read_snapshot(sys.argv[1:])
took, cpu = time.perf_counter() - begin, time.process_time() - cpu
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
free = sum(node.num_free_gpus for node in fleet.nodes)
print(took, cpu, peak, len(fleet.nodes), len(fleet.pods), free)
"""
PARSE_ONLY = """
import json, resource, sys, time
begin, cpu = time.perf_counter(), time.process_time()
with open(sys.argv[1], "rb") as file:
    items = json.load(file)["items"]
took, cpu = time.perf_counter() - begin, time.process_time() - cpu
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
kinds = [item["kind"] for item in items]
print(took, cpu, peak, kinds.count("Node"), kinds.count("Pod"), 0)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--pods", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="keep the generated files here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        sizes = generate(folder, options.nodes, options.pods)
        results: dict[str, Any] = {"num_nodes": options.nodes, "num_pods": options.pods, "files": sizes, "readings": {}}
        readings = {
            "snapshot": (OURS, folder / "snapshot.json", options.runs),
            "snapshot, json.load alone": (PARSE_ONLY, folder / "snapshot.json", options.runs),
            "kubectl": (OURS, folder / "kubectl.json", max(1, options.runs // 2)),
        }
        # Interleaved: a slow spell of the machine falls on all of them.
        yardstick = Yardstick()
        for run in range(options.runs):
            yardstick.round()
            for name, (program, path, runs) in readings.items():
                if run < runs:
                    results["readings"].setdefault(name, []).append(measure(program, path))
                    print(name, results["readings"][name][-1], file=sys.stderr)
    for runs in results["readings"].values():
        for one in runs:
            assert (one["num_nodes"], one["num_pods"]) == (options.nodes, options.pods), one
    results["yardstick"] = yardstick.summary()
    results["summary"] = {
        name: {
            "median_s": round(record.quantile([one["seconds"] for one in runs], 0.5), 3),
            "median_cpu_s": round(record.quantile([one["cpu_seconds"] for one in runs], 0.5), 3),
            "fastest_s": round(min(one["seconds"] for one in runs), 3),
            "peak_mib": max(one["peak_mib"] for one in runs),
        }
        for name, runs in results["readings"].items()
    }
    notes = ["seconds: from the call of read_snapshot to the Fleet, without the start of Python and the imports",
             "cpu_seconds: the processor's time of the same; less than the seconds where others had the processor",
             "peak_mib: the process's largest resident set, file pages that it mapped included"]  # fmt: skip
    print(record.write("fleet-load", results, distributions=["msgspec"], notes=notes))


def measure(program: str, path: Path) -> dict[str, float]:
    """One reading in a process of its own."""
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=True, capture_output=True, text=True)
    took, cpu, peak_kib, num_nodes, num_pods, num_free = (float(word) for word in done.stdout.split())
    return {
        "seconds": round(took, 3),
        "cpu_seconds": round(cpu, 3),
        "peak_mib": round(peak_kib / 1024),
        "num_nodes": int(num_nodes),
        "num_pods": int(num_pods),
        "num_free_gpus": int(num_free),
    }


def generate(folder: Path, num_nodes: int, num_pods: int) -> dict[str, Any]:
    """Write snapshot.json and kubectl.json; returns their sizes and those of a pod in them."""
    sizes: dict[str, Any] = {}
    with (folder / "snapshot.json").open("wb") as stripped, (folder / "kubectl.json").open("wb") as whole:
        write_snapshot(written(objects(num_nodes, num_pods), whole), stripped, name="bench")
    for name in ("snapshot", "kubectl"):
        path = folder / f"{name}.json"
        sizes[name] = {"mib": round(path.stat().st_size / 2**20, 1)}
    with (folder / "snapshot.json").open("rb") as file:
        lines = [line for line in file if line.startswith(b'{"apiVersion":"v1","kind":"Pod"')]
    sizes["snapshot"]["bytes_per_pod"] = round(sum(map(len, lines)) / len(lines))
    sizes["kubectl"]["bytes_per_pod"] = len(indented(pod(0, num_nodes)))
    assert sizes["snapshot"]["bytes_per_pod"] >= 1500, sizes
    assert sizes["kubectl"]["bytes_per_pod"] >= 8000, sizes
    return sizes


def written(found: Iterator[dict[str, Any]], out: BinaryIO) -> Iterator[dict[str, Any]]:
    """The same objects, each written as kubectl prints it on its way."""
    out.write(b'{\n    "apiVersion": "v1",\n    "items": [')
    comma = b"\n"
    for one in found:
        out.write(comma + indented(one))
        comma = b",\n"
        yield one
    out.write(b'\n    ],\n    "kind": "List",\n    "metadata": {\n        "resourceVersion": ""\n    }\n}\n')


def indented(obj: dict[str, Any]) -> bytes:
    """An item of a list in kubectl's layout: keys in order, four blanks a level, two levels deep."""
    lines = msgspec.json.format(msgspec.json.encode(obj, order="sorted"), indent=4)
    return b" " * 8 + lines.replace(b"\n", b"\n" + b" " * 8)


def objects(num_nodes: int, num_pods: int) -> Iterator[dict[str, Any]]:
    """Nodes, then pods."""
    for index in range(num_nodes):
        yield node(index)
    for index in range(num_pods):
        yield pod(index, num_nodes)


def node(index: int) -> dict[str, Any]:
    """A node with H100s in the manner of a GPU cloud."""
    leaf, name = index // NODES_PER_LEAF, f"g{index:06x}"
    superpod = leaf // LEAVES_PER_SUPERPOD
    labels = {
        "backend.coreweave.cloud/fabric": f"us-east-{superpod // 8}",
        "backend.coreweave.cloud/flavor": "infiniband",
        "backend.coreweave.cloud/leafgroup": str(leaf),
        "backend.coreweave.cloud/leafgroup-name": f"us-east-lg-{leaf}",
        "backend.coreweave.cloud/superpod": str(superpod),
        "backend.coreweave.cloud/speed.current": "400G",
        "backend.coreweave.cloud/speed.expected": "400G",
        "beta.kubernetes.io/arch": "amd64",
        "beta.kubernetes.io/os": "linux",
        "compute.coreweave.com/node-pool": f"h100-{superpod}",
        "failure-domain.beta.kubernetes.io/region": "US-EAST-02",
        "gpu.nvidia.com/class": "H100_NVLINK_80GB",
        "gpu.nvidia.com/count": "8",
        "gpu.nvidia.com/model": "H100_NVLINK_80GB",
        "gpu.nvidia.com/vram": "81",
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "node.coreweave.cloud/class": "gpu",
        "node.coreweave.cloud/rack": str(index // 4),
        "node.coreweave.cloud/state": "production",
        "node.coreweave.cloud/type": "gd-8xh100ib-i128",
        "node.kubernetes.io/instance-type": "gd-8xh100ib-i128",
        "topology.kubernetes.io/region": "US-EAST-02",
        "topology.kubernetes.io/zone": "US-EAST-02A",
    }
    for port in range(8):
        for which in ("current", "expected"):
            labels[f"backend.coreweave.cloud/neighbors.{which}.ibp{port}.device"] = f"leaf-{leaf}-{port}"
            labels[f"backend.coreweave.cloud/neighbors.{which}.ibp{port}.port-name"] = f"p{index % NODES_PER_LEAF}"
    for feature in ("AVX", "AVX2", "AVX512F", "AVX512BW", "AVX512VNNI", "AMXBF16", "AMXINT8", "AMXTILE", "FMA3", "VMX"):
        labels[f"feature.node.kubernetes.io/cpu-cpuid.{feature}"] = "true"
    for key, value in {"count": "8", "memory": "81559", "product": "NVIDIA-H100-80GB-HBM3", "family": "hopper",
                       "machine": "SYS-821GE", "compute.major": "9", "compute.minor": "0"}.items():  # fmt: skip
        labels[f"nvidia.com/gpu.{key}"] = value
    amounts = {"cpu": "128", "ephemeral-storage": "30003181568Ki", "hugepages-1Gi": "0", "hugepages-2Mi": "0",
               "memory": "2112109804Ki", "nvidia.com/gpu": "8", "pods": "110", "rdma/ib": "1k"}  # fmt: skip
    at = "2026-11-20T10:00:00Z"
    conditions = [
        {"lastHeartbeatTime": at, "lastTransitionTime": at, "message": f"kubelet says {kind} is as it should be",
         "reason": f"Kubelet{kind}", "status": "True" if kind == "Ready" else "False", "type": kind}
        for kind in ("NetworkUnavailable", "MemoryPressure", "DiskPressure", "PIDPressure", "KernelDeadlock",
                     "ReadonlyFilesystem", "CperHardwareErrorFatal", "XfsShutdown", "Ready")
    ]  # fmt: skip
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "annotations": {"node.alpha.kubernetes.io/ttl": "0"},
            "creationTimestamp": at, "labels": labels, "managedFields": managed(labels, 2), "name": name,
            "resourceVersion": str(90_000_000 + index), "uid": uid(index),
        },
        "spec": {"podCIDR": f"10.{index % 250}.0.0/24", "providerID": f"coreweave://{name}"},
        "status": {
            "addresses": [{"address": f"10.0.{index // 250}.{index % 250}", "type": "InternalIP"}],
            "allocatable": amounts, "capacity": amounts, "conditions": conditions,
            "images": [{"names": [f"registry.example.com/team/image-{number}@sha256:{'ab' * 32}"],
                        "sizeBytes": 10**9 + number} for number in range(20)],
            "nodeInfo": {"architecture": "amd64", "kubeletVersion": "v1.36.1", "operatingSystem": "linux"},
        },
    }  # fmt: skip


def pod(index: int, num_nodes: int) -> dict[str, Any]:
    """A pod of a training job, with what a controller, an API server and a kubelet add to it."""
    # Of each ten pods of a node seven ask for one GPU and three for none; one in a hundred waits.
    place, waits = index % num_nodes, index % 100 == 99
    asks_gpu = (index // num_nodes) % 10 < 7
    job, at = f"train-{index // 64:05d}", "2026-11-20T10:00:00Z"
    amounts = {"cpu": "7", "memory": "56Gi", **({"nvidia.com/gpu": "1", "rdma/ib": "1"} if asks_gpu else {})}
    labels = {
        "app.kubernetes.io/managed-by": "trainer",
        "app.kubernetes.io/name": job,
        "batch.kubernetes.io/job-completion-index": str(index % 64),
        "batch.kubernetes.io/job-name": f"{job}-node-0",
        "controller-uid": uid(index // 64),
        "jobset.sigs.k8s.io/job-index": "0",
        "jobset.sigs.k8s.io/jobset-name": job,
        "jobset.sigs.k8s.io/replicatedjob-name": "node",
        "kueue.x-k8s.io/queue-name": f"team-{index % 20}",
    }
    env: list[dict[str, Any]] = [
        {"name": f"SETTING_{number}", "value": f"value of the setting number {number}"} for number in range(6)
    ]
    env.append({"name": "POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}})
    mounts = [{"mountPath": f"/mnt/{name}", "name": name} for name in ("data", "checkpoints", "shm", "token")]
    container = {
        "args": ["torchrun", "--nnodes=8", "--nproc-per-node=8", "/workspace/train.py", "--config=/etc/train/70b.toml"],
        "env": env, "image": f"registry.example.com/team/trainer@sha256:{'cd' * 32}", "imagePullPolicy": "IfNotPresent",
        "name": "trainer", "ports": [{"containerPort": 29500, "name": "rendezvous", "protocol": "TCP"}],
        "resources": {"limits": amounts, "requests": amounts}, "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File", "volumeMounts": mounts,
    }  # fmt: skip
    spec: dict[str, Any] = {
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "gpu.nvidia.com/class", "operator": "In", "values": ["H100_NVLINK_80GB"]}]}
        ]}}},
        "containers": [container], "dnsPolicy": "ClusterFirst", "enableServiceLinks": True,
        "nodeSelector": {"backend.coreweave.cloud/flavor": "infiniband"}, "preemptionPolicy": "PreemptLowerPriority",
        "priority": 1000, "priorityClassName": "training", "restartPolicy": "Never",
        "schedulerName": "default-scheduler",
        "securityContext": {}, "serviceAccount": "default", "serviceAccountName": "default",
        "tolerations": [
            {"effect": "NoExecute", "key": "node.kubernetes.io/not-ready", "operator": "Exists"},
            {"effect": "NoExecute", "key": "node.kubernetes.io/unreachable", "operator": "Exists"},
            {"effect": "NoSchedule", "key": "is_gpu", "operator": "Exists"},
        ],
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "checkpoints", "persistentVolumeClaim": {"claimName": "checkpoints"}},
            {"emptyDir": {"medium": "Memory", "sizeLimit": "32Gi"}, "name": "shm"},
            {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
        ],
    }  # fmt: skip
    kinds = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    conditions = [{"lastProbeTime": None, "lastTransitionTime": at, "status": "True", "type": kind} for kind in kinds]
    status: dict[str, Any] = {"phase": "Pending", "qosClass": "Guaranteed"}
    if not waits:
        spec["nodeName"] = f"g{place:06x}"
        status = {
            "conditions": conditions,
            "containerStatuses": [{
                "allocatedResources": amounts, "containerID": f"containerd://{'ef' * 32}", "image": container["image"],
                "imageID": container["image"], "lastState": {}, "name": "trainer", "ready": True,
                "resources": {"limits": amounts, "requests": amounts}, "restartCount": 0, "started": True,
                "state": {"running": {"startedAt": at}}, "volumeMounts": mounts,
            }],
            "hostIP": "10.0.0.1", "phase": "Running", "podIP": "10.1.0.1", "podIPs": [{"ip": "10.1.0.1"}],
            "qosClass": "Guaranteed", "startTime": at,
        }  # fmt: skip
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "annotations": {
                "k8s.v1.cni.cncf.io/network-status": '[{"name":"default","interface":"eth0","ips":["10.1.0.1"]}]',
                "kueue.x-k8s.io/podset-required-topology": "backend.coreweave.cloud/leafgroup",
            },
            "creationTimestamp": at, "generateName": f"{job}-node-0-{index % 64}-", "labels": labels,
            "managedFields": managed(labels, 2), "name": f"{job}-node-0-{index % 64}-{index % 100_000:05d}",
            "namespace": f"team-{index % 20}", "resourceVersion": str(80_000_000 + index), "uid": uid(index),
            "ownerReferences": [{"apiVersion": "batch/v1", "controller": True, "kind": "Job",
                                 "name": f"{job}-node-0", "uid": uid(index // 64)}],
        },
        "spec": spec,
        "status": status,
    }  # fmt: skip


def managed(labels: dict[str, str], num_managers: int) -> list[dict[str, Any]]:
    """What the API server notes of who set which field."""
    fields: dict[str, Any] = {"f:metadata": {"f:labels": {".": {}, **{f"f:{key}": {} for key in list(labels)[:3]}}}}
    return [
        {"apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": fields, "manager": f"manager-{number}",
         "operation": "Update", "time": "2026-11-20T10:00:00Z"}
        for number in range(num_managers)
    ]  # fmt: skip


def uid(index: int) -> str:
    return f"{index:08x}-0000-4000-8000-{index:012x}"


if __name__ == "__main__":
    main()
