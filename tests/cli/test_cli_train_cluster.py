"""`ironloom train` for a cluster: what the options write, and what is refused before a cluster is asked."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from fake_control import Run

from ironloom.backends.kubernetes.training_view import RunState
from ironloom.cli import train_cluster
from ironloom.cli.train_cluster import read_files
from ironloom.cli.training import in_pods, train_job
from ironloom.errors import ClusterError, UsageError

TRAIN = ("train", "owner/name", "--data", "/data/rows.jsonl", "--output", "/out/tune", "--context", "nowhere")


def test_ranks_and_gpus_are_divided_over_the_pods() -> None:
    whole = train_job(
        "owner/name", name="tune", output=Path("/out/tune"), sources=["/data/rows"], num_ranks=32, num_gpus=32,
        said={"global_batch_size": 32}, is_here=False,
    )  # fmt: skip
    made = in_pods(whole, num_nodes=4, image="i:1", volumes=["data=/data", "out=/out"])
    trainer = made["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"], trainer["image"]) == (4, 8, "i:1")
    assert trainer["resourcesPerNode"]["limits"] == {"nvidia.com/gpu": "8"}
    assert "--data.sources=/data/rows" in trainer["args"]
    jobs = made["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = jobs[0]["template"]["spec"]["template"]["spec"]
    assert pod["volumes"][1] == {"name": "out", "persistentVolumeClaim": {"claimName": "out"}}
    assert pod["containers"][0]["volumeMounts"][0] == {"name": "data", "mountPath": "/data"}
    assert "runtimePatches" not in whole["spec"]


@pytest.mark.parametrize(
    ("nodes", "volumes", "said"),
    [
        (3, (), r"--ranks 8 does not divide by --nodes 3\."),
        (1, ("data",), "is not CLAIM=PATH"),
        (1, ("data=here",), "is not CLAIM=PATH"),
    ],
)
def test_what_does_not_divide_or_is_no_volume_is_refused(nodes: int, volumes: tuple[str, ...], said: str) -> None:
    whole = train_job(
        "owner/name", name="tune", output=Path("/out"), sources=["/data"], num_ranks=8, is_here=False
    )  # fmt: skip
    with pytest.raises(UsageError, match=said):
        in_pods(whole, num_nodes=nodes, volumes=volumes)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("train", "a/b", "--data", "x", "--nodes", "2"), "--nodes is for a run in a cluster"),
        (("train", "a/b", "--data", "x", "--queue", "q"), "--queue is for a run in a cluster"),
        (("train", "a/b", "--data", "x", "--dry-run=server"), "--dry-run=server is for a run in a cluster"),
        (("train", "-f", "run.yaml"), "-f is for a run in a cluster"),
        (("train", "a/b", "--data", "rows.jsonl", "--output", "/out", "--context", "c"), "is a path of the pods"),
        (("train", "a/b", "--data", "/rows.jsonl", "--context", "c"), "needs --output"),
        (("train", "a/b", "--data", "/r", "-f", "run.yaml", "--context", "c"), "take one of them"),
        (("get", "--namespace", "x"), "--namespace is of a cluster"),
        (("delete", "--all", "--context", "c"), "--all is for this machine"),
    ],
)
def test_what_fits_no_cluster_or_needs_one_is_a_sentence(run: Run, args: tuple[str, ...], said: str) -> None:
    result = run(*args)
    assert result.status == 2
    assert said in result.err


@pytest.mark.parametrize("verb", [TRAIN, ("get",), ("describe", "tune"), ("logs", "tune"), ("delete", "tune")])
def test_a_context_that_is_not_there_is_refused_by_every_verb(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, verb: tuple[str, ...]
) -> None:
    config = tmp_path / "config"
    config.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "contexts": []}))
    monkeypatch.setenv("KUBECONFIG", str(config))
    result = run(*verb, *(() if "--context" in verb else ("--context", "nowhere")))
    assert result.status != 0
    assert "nowhere" in result.err


def test_manifests_without_a_run_are_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "service.yaml"
    path.write_text("apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {ports: [{port: 80}]}\n")
    result = run("train", "-f", str(path), "--context", "c")
    assert (result.status, result.err.splitlines()[-3]) == (2, "The manifests declare no training run.")


def test_a_word_after_dry_run_is_the_model(run: Run, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a"}\n')
    result = run("train", "--dry-run", "owner/name", "--data", str(rows))
    assert yaml.safe_load(result.out)["metadata"]["name"] == "name-tuned"


RUN = """\
apiVersion: trainer.kubeflow.org/v1alpha1
kind: TrainJob
metadata: {name: tune}
spec:
  runtimeRef: {name: torch-distributed}
  trainer:
    image: example.com/train:1
    command: [torchrun, -m, ironloom.train.run]
    args: [--model=hf://a/b, --output=/out/run, --data.sources=/data/rows.jsonl, --global_batch_size=8]
    numNodes: 2
    numProcPerNode: 8
    resourcesPerNode: {limits: {nvidia.com/gpu: 8}}
"""


def test_a_run_that_its_own_program_refuses_is_refused_before_a_cluster_is_asked(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(RUN)
    result = run("train", "-f", str(path), "--context", "nowhere", "--no-wait")
    assert result.status == 2
    assert f"{path}:9:" in result.err
    assert "does not divide by 16 ranks" in result.err


def test_what_is_no_run_is_left_to_the_command_that_takes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "both.yaml"
    service = "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: chat}\n"
    other = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: words}\n"
    path.write_text("---\n".join([RUN.replace("batch_size=8", "batch_size=16"), service, other]))
    read_files([path])
    assert capsys.readouterr().err.splitlines() == [
        "note: InferenceService chat is left out: `ironloom apply` takes it",
        "note: ConfigMap words is left out: `kubectl apply` takes it",
    ]


class Runs:
    """A run that ends; its cluster is away at times."""

    def __init__(self, *answers: str | ClusterError) -> None:
        self.answers = [*answers]

    async def state(self, name: str) -> RunState:
        answer = self.answers.pop(0)
        if isinstance(answer, ClusterError):
            raise answer
        return RunState(name=name, namespace="models", kind="Job", state=answer)


def followed(*answers: str | ClusterError) -> RunState:
    one = SimpleNamespace(run=SimpleNamespace(name="tune"))
    order = train_cluster.Order(context="prod", namespace=None)
    return asyncio.run(train_cluster._followed(cast("Any", Runs(*answers)), cast("Any", one), order, cast("Any", None)))


def test_a_run_is_followed_through_a_cluster_that_is_away_for_a_while(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train_cluster, "POLL_S", 0.001)
    away = ClusterError("The cluster of context prod refuses connections")
    busy = ClusterError("busy", status=503)
    assert followed("running", away, busy, "running", "succeeded").state == "succeeded"
    assert capsys.readouterr().err.splitlines() == [
        "tune: running",
        "note: The cluster of context prod refuses connections; tune goes on, and is asked for again",
        "tune: succeeded",
    ]


def test_what_is_refused_while_a_run_is_followed_and_a_cluster_that_stays_away_end_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(train_cluster, "POLL_S", 0.001)
    with pytest.raises(ClusterError, match="forbidden"):
        followed("running", ClusterError("forbidden", status=403), "succeeded")
    monkeypatch.setattr(train_cluster, "AWAY_WITHIN_S", 0.0)
    with pytest.raises(ClusterError, match="away"):
        followed("running", ClusterError("away"), ClusterError("away"), "succeeded")
