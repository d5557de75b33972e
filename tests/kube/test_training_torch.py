"""On a real kubelet: torchrun and Ironloom's own trainer in two pods, over gloo, by the names that a headless Service
gives them; a rank is killed, and the run goes on from its checkpoint.

The Python environment with torch, this checkout and the data of the run are mounted from the host.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import urllib.error
from pathlib import Path
from typing import Any

import pytest
from tests.kube.cluster import Cluster
from tests.kube.image import ENGINE
from tests.kube.kubelet import RealNode
from tests.kube.training_runs import NAMESPACE, Command, manifest, state, wait_until

from ironloom.train.loop.records import Kind, path_of, read_records

ROOT = Path(__file__).resolve().parents[2]
TORCH = ROOT / ".venv-train" / "bin" / "python"
pytestmark = pytest.mark.kube
NUM_STEPS = 16
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


def steps_of(output: Path) -> list[int]:
    """As rank 0 recorded them, in order."""
    found, _ = read_records(path_of(output / "logs", 0))
    return [int(record["step"]) for record in found if record["kind"] == Kind.STEP]


def rank_pids(output: Path) -> list[int]:
    """Processes of the host that train into a folder, torchrun's agents left out."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"--output={output}".encode() in words and not any(word.endswith(b"torchrun") for word in words):
            found.append(int(process.name))
    return found


def has_ended(cluster: Cluster) -> bool:
    return state(cluster, "torch").state in ("succeeded", "failed")


def test_two_pods_train_over_gloo_and_a_killed_rank_costs_no_step_before_the_last_checkpoint(
    kubelet_cluster: Cluster, node: RealNode, data: Path, tmp_path: Path
) -> None:
    assert node.is_ready()
    cluster, command, output = kubelet_cluster, Command(kubelet_cluster, tmp_path), data / "out"
    with contextlib.suppress(urllib.error.HTTPError):  # another test's
        cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    args = [
        f"--model={data / 'model'}", f"--output={output}", f"--data.sources={data / 'rows.jsonl'}",
        "--data.seq_len=64", f"--num_steps={NUM_STEPS}", "--global_batch_size=4", "--watch.log_every_steps=1",
        "--checkpoint.every_steps=5", "--max_restarts=3",
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
    wait_until(lambda: len(steps_of(output)) >= 7 or has_ended(cluster), within_s=300)
    os.kill(rank_pids(output)[-1], signal.SIGKILL)
    wait_until(lambda: has_ended(cluster), within_s=400)
    assert state(cluster, "torch").state == "succeeded", command.verb("logs", "torch").stdout[-3000:]
    steps = steps_of(output)
    anew = [at for at in range(1, len(steps)) if steps[at] <= steps[at - 1]]
    assert anew, "no attempt began anew"
    assert all(steps[at] > 5 for at in anew), "an attempt began at the first step"
    assert steps[-1] == NUM_STEPS
    assert (output / "config.json").is_file()
