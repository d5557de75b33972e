"""On a real kubelet: torchrun and Ironloom's own trainer in two pods, over gloo, by the names that a headless Service
gives them; one pod is killed as a whole, without notice, and the run goes on from its checkpoint.

The Python environment with torch, this checkout and the data of the run are mounted from the host.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import urllib.error
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.kube.cluster import Cluster
from tests.kube.image import ENGINE
from tests.kube.kubelet import RealNode
from tests.kube.training_runs import NAMESPACE, PODS, Command, manifest, pods_of, state, wait_until

from ironloom.backends.kubernetes.training_view import newest
from ironloom.train.loop.records import Kind, path_of, read_records

ROOT = Path(__file__).resolve().parents[2]
TORCH = ROOT / ".venv-train" / "bin" / "python"
pytestmark = pytest.mark.kube
NUM_STEPS = 40
EVERY_STEPS = 5
HOST = tuple(dict.fromkeys(("/usr", "/lib", "/lib64", sys.base_prefix)))
"""Of the host: the interpreter of the environment, and the C++ runtime that torch needs."""
MAKE = "from pathlib import Path; from tests.train.loop.tiny import make_model, make_rows; import sys; \
folder = Path(sys.argv[1]); make_model(folder / 'model'); make_rows(folder / 'rows.jsonl')"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and rows to train it on, and room for what the run writes."""
    if not TORCH.exists():
        pytest.skip("no environment with torch: run scripts/setup_train")
    folder = tmp_path_factory.mktemp("data")
    subprocess.run([TORCH, "-c", MAKE, str(folder)], cwd=ROOT, check=True, timeout=300)
    return folder


def mounted(made: dict[str, Any], *folders: Path) -> dict[str, Any]:
    """With folders of the host, at their own paths."""
    paths = [*HOST, *map(str, folders)]
    volumes = [{"name": f"host-{n}", "hostPath": {"path": path}} for n, path in enumerate(paths)]
    mounts = [{"name": f"host-{n}", "mountPath": path} for n, path in enumerate(paths)]
    pod = {"volumes": volumes, "containers": [{"name": "node", "volumeMounts": mounts}]}
    jobs = [{"name": "node", "template": {"spec": {"template": {"spec": pod}}}}]
    patch = {"template": {"spec": {"replicatedJobs": jobs}}}
    made["spec"]["runtimePatches"] = [{"manager": "test", "trainingRuntimeSpec": patch}]
    return made


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """As rank 0 recorded it."""

    begun_after: int
    """The step that it went on from."""
    losses: dict[int, float]
    """By step."""
    kept: list[int]
    """The steps whose checkpoints were whole."""


def attempts_of(output: Path) -> list[Attempt]:
    found, _ = read_records(path_of(output / "logs", 0))
    attempts: list[Attempt] = []
    for record in found:
        if record["kind"] == Kind.STARTED:
            attempts.append(Attempt(begun_after=record["step"], losses={}, kept=[]))
        elif record["kind"] == Kind.STEP:
            attempts[-1].losses[record["step"]] = record["loss"]
        elif record["kind"] == Kind.CHECKPOINTED:
            attempts[-1].kept.append(record["step"])
    return attempts


def kill(cluster: Cluster, node: RealNode, pod: dict[str, Any]) -> None:
    """Torchrun and its ranks at once, and no pod of the name is left. A deletion alone would give them notice: a rank
    that is asked to end takes a checkpoint first."""
    (told,) = pod["status"]["containerStatuses"]
    node.ctr("task", "kill", "--signal", "SIGKILL", told["containerID"].partition("://")[2])
    cluster.request("DELETE", f"{PODS}/{pod['metadata']['name']}", {"gracePeriodSeconds": 0})


def has_steps_to_lose(output: Path) -> bool:
    """Whether there is a checkpoint, and steps beyond it."""
    return any(one.kept and max(one.losses) > one.kept[0] + 1 for one in attempts_of(output))


def has_ended(cluster: Cluster) -> bool:
    return state(cluster, "torch").state in ("succeeded", "failed")


def test_two_pods_train_over_gloo_and_a_killed_pod_costs_no_step_before_the_last_checkpoint(
    kubelet_cluster: Cluster, node: RealNode, data: Path, tmp_path: Path
) -> None:
    assert node.is_ready()
    cluster, command, output = kubelet_cluster, Command(kubelet_cluster, tmp_path), data / "out"
    with contextlib.suppress(urllib.error.HTTPError):  # another test's
        cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    args = [
        f"--model={data / 'model'}", f"--output={output}", f"--data.sources={data / 'rows.jsonl'}",
        "--data.seq_len=64", f"--num_steps={NUM_STEPS}", "--global_batch_size=4", "--watch.log_every_steps=1",
        f"--checkpoint.every_steps={EVERY_STEPS}", "--max_restarts=3", "--compute.is_deterministic=true",
    ]  # fmt: skip
    env = [
        {"name": "IRONLOOM_CACHE", "value": str(data / "cache")},
        {"name": "OMP_NUM_THREADS", "value": "1"},
        {"name": "PYTHONPATH", "value": str(ROOT / "src")},
    ]
    made = manifest("torch", nodes=2, gpus=1, image=ENGINE, args=args, env=env)
    made["spec"]["trainer"] |= {"command": [str(TORCH.with_name("torchrun")), "-m", "ironloom.train.run"]}
    made["spec"]["trainer"] |= {"numProcPerNode": 1}
    command.train(mounted(made, ROOT, data), "--no-wait")

    wait_until(lambda: has_steps_to_lose(output) or has_ended(cluster), within_s=300)
    first = pods_of(cluster, "torch")
    kill(cluster, node, first[1])
    wait_until(lambda: has_ended(cluster), within_s=400)
    assert state(cluster, "torch").state == "succeeded", command.verb("logs", "torch").stdout[-3000:]
    last = newest(pods_of(cluster, "torch"))
    assert not {one["metadata"]["uid"] for one in first} & {one["metadata"]["uid"] for one in last}

    attempts = [one for one in attempts_of(output) if one.losses]
    assert len(attempts) > 1, "no attempt was cut short"
    done: dict[int, float] = {}
    kept = 0
    for one in attempts:
        assert kept <= one.begun_after <= len(done), "it did not go on from its last checkpoint"
        assert list(one.losses) == list(range(one.begun_after + 1, one.begun_after + 1 + len(one.losses)))
        anew = one.losses.keys() & done.keys()
        assert {step: one.losses[step] for step in anew} == {step: done[step] for step in anew}
        done |= one.losses
        kept = max([kept, *one.kept])
    assert list(done) == list(range(1, NUM_STEPS + 1))
    assert (output / "config.json").is_file()
