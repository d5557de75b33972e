"""On a real kubelet: a run of two pods, one of which is killed, goes on from its checkpoint.

The trainer is a small script in an image packed from the Python that runs the tests: each step needs both ranks, rank 0
keeps the step on a volume, and a rank whose peer is gone ends as ours do. The ranks meet on that volume, so that the
script needs nothing but Python; that they find rank 0 by its name is in test_training_torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.kube.cluster import Cluster
from tests.kube.image import ENGINE, python_path
from tests.kube.kubelet import RealNode
from tests.kube.training_runs import NAMESPACE, PODS, Command, manifest, pods_of, state, wait_until

pytestmark = pytest.mark.kube
NUM_STEPS = 60
TRAINER = """
import json, os, pathlib, sys, time
out, rank = pathlib.Path("/out"), int(os.environ["RANK"])
told = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
print(json.dumps({**told, "host": os.uname().nodename}), flush=True)
checkpoint = out / "checkpoint"
step = int(checkpoint.read_text()) if checkpoint.exists() else 0
if rank == 0:
    with (out / "attempts").open("a") as attempts:
        attempts.write(f"{step}\\n")
peer, mine = out / f"beat-{1 - rank}", out / f"beat-{rank}"
last, heard = None, time.monotonic()
while step < STEPS:
    mine.write_text(f"{time.time_ns()}")
    now = peer.read_text() if peer.exists() else None
    if now != last:
        last, heard, step = now, time.monotonic(), step + 1
        if rank == 0:
            new = out / "checkpoint.new"
            new.write_text(str(step))
            new.replace(checkpoint)
    elif time.monotonic() - heard > (30 if last is None else 3):
        sys.exit(5)
    time.sleep(0.2)
for _ in range(20):
    mine.write_text(f"{time.time_ns()}")
    time.sleep(0.1)
""".replace("STEPS", str(NUM_STEPS))


@pytest.fixture(scope="module", autouse=True)
def space(kubelet_cluster: Cluster, node: RealNode) -> None:
    kubelet_cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})


def over_a_volume(made: dict[str, Any], folder: Path) -> dict[str, Any]:
    pod = {
        "volumes": [{"name": "out", "hostPath": {"path": str(folder), "type": "Directory"}}],
        "containers": [{"name": "node", "volumeMounts": [{"name": "out", "mountPath": "/out"}]}],
    }
    jobs = [{"name": "node", "template": {"spec": {"template": {"spec": pod}}}}]
    patch = {"template": {"spec": {"replicatedJobs": jobs}}}
    made["spec"]["runtimePatches"] = [{"manager": "test", "trainingRuntimeSpec": patch}]
    return made


def test_a_run_one_of_whose_pods_is_killed_starts_anew_and_goes_on_from_its_checkpoint(
    kubelet_cluster: Cluster, tmp_path: Path
) -> None:
    cluster, command = kubelet_cluster, Command(kubelet_cluster, tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    obj = over_a_volume(
        manifest("resumes", nodes=2, gpus=1, image=ENGINE, command=[str(python_path()), "-c", TRAINER], args=[]), out
    )
    obj["spec"]["trainer"]["numProcPerNode"] = 1
    checkpoint = out / "checkpoint"
    with command.training(obj) as waiting:
        kill_one_and_see_it_go_on(cluster, command, out)
        said = waiting.communicate(timeout=60)[1]
        assert waiting.returncode == 0
    for told in ("job/resumes created", "resumes: running", "resumes: succeeded", '"RANK": "0"'):
        assert told in said, said
    assert int(checkpoint.read_text()) == NUM_STEPS


def kill_one_and_see_it_go_on(cluster: Cluster, command: Command, out: Path) -> None:
    checkpoint = out / "checkpoint"
    wait_until(lambda: checkpoint.exists() and int(checkpoint.read_text()) >= 5, within_s=120)
    assert state(cluster, "resumes").state == "running"
    log = command.verb("logs", "resumes", "--replica", "rank-1").stdout
    assert json.loads(log.splitlines()[0]) == {
        "RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "resumes-0.resumes", "MASTER_PORT": "29500",
        "host": "resumes-1",
    }  # fmt: skip
    both = [line.partition("] ") for line in command.verb("logs", "resumes").stdout.splitlines()]
    assert {who.removeprefix("[") for who, _, _ in both} == {
        pod["metadata"]["name"] for pod in pods_of(cluster, "resumes")
    }
    assert {json.loads(line)["RANK"] for _, _, line in both if line.startswith("{")} == {"0", "1"}
    killed = pods_of(cluster, "resumes")[1]["metadata"]["name"]
    cluster.request("DELETE", f"{PODS}/{killed}", {"gracePeriodSeconds": 0})
    wait_until(lambda: state(cluster, "resumes").state in ("succeeded", "failed"), within_s=240)
    assert state(cluster, "resumes").state == "succeeded"
    attempts = [int(line) for line in (out / "attempts").read_text().split()]
    assert attempts[0] == 0
    assert len(attempts) > 1
    assert all(5 <= step < NUM_STEPS for step in attempts[1:]), "an attempt began anew in place of going on"
