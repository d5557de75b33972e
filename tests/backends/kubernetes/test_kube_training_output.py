"""Where a run in a cluster writes, and what two of them may not share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ironloom.backends.kubernetes.training_output import claim_and_path, lasting_mount, refuse_one_output
from ironloom.backends.kubernetes.training_pods import RunPods, run_pods
from ironloom.errors import UsageError

CLAIM = {"name": "data", "persistentVolumeClaim": {"claimName": "work"}}
SCRATCH = {"name": "scratch", "emptyDir": {}}
WHOLE = {"name": "data", "mountPath": "/out"}


def run_of(
    output: str, *mounts: dict[str, Any], name: str = "tune", volumes: tuple[dict[str, Any], ...] = (CLAIM, SCRATCH)
) -> RunPods:
    container = {
        "name": "pytorch",
        "image": "example.com/train:1",
        "command": ["torchrun", "-m", "ironloom.train.run"],
        "args": ["--model=hf://a/b", f"--output={output}"],
        "volumeMounts": [*mounts],
    }
    master = {"replicas": 1, "template": {"spec": {"volumes": [*volumes], "containers": [container]}}}
    spec = {"pytorchReplicaSpecs": {"Master": master}}
    return run_pods({"kind": "PyTorchJob", "metadata": {"name": name}, "spec": spec})


@pytest.mark.parametrize(
    ("output", "mounts", "place"),
    [
        ("/out/run", (WHOLE,), ("work", "/run")),
        ("/out", (WHOLE,), ("work", "/")),
        ("/out/a/../run/", (WHOLE,), ("work", "/run")),
        ("/outer/run", (WHOLE,), None),
        ("/elsewhere", (WHOLE,), None),
        ("hf://a/b", (WHOLE,), None),
        ("/out/run", ({**WHOLE, "subPath": "team/a"},), ("work", "/team/a/run")),
        ("/out/run", ({**WHOLE, "subPathExpr": "$(POD_NAME)"},), None),
        ("/out/run", (WHOLE, {"name": "scratch", "mountPath": "/out/run"}), None),
        ("/out/run", ({"name": "scratch", "mountPath": "/out"}, {**WHOLE, "mountPath": "/out/run"}), ("work", "/")),
        ("/out/run", ({"name": "nobody", "mountPath": "/out"},), None),
    ],
)
def test_an_output_lies_where_the_mount_nearest_to_it_says(
    output: str, mounts: tuple[dict[str, Any], ...], place: tuple[str, str] | None
) -> None:
    assert claim_and_path(run_of(output, *mounts)) == place


def test_a_volume_that_is_no_claim_lasts_and_has_no_claim_s_path() -> None:
    made = run_of("/out/run", WHOLE, volumes=({"name": "data", "nfs": {"server": "files", "path": "/"}},))
    assert lasting_mount(made) is not None
    assert claim_and_path(made) is None


def test_two_runs_that_would_write_to_one_path_of_one_claim_are_refused_and_both_named() -> None:
    first = run_of("/out/run", WHOLE, name="first")
    second = run_of("/data/run", {**WHOLE, "mountPath": "/data"}, name="second")
    with pytest.raises(UsageError) as told:
        refuse_one_output([("ml", first), ("ml", second)])
    assert told.value.message == (
        "The runs 'first' and 'second' would both train into /run of the claim 'work', and one run at a time can."
    )
    other_claim = ({"name": "data", "persistentVolumeClaim": {"claimName": "other"}},)
    for beside in (
        ("other", second),
        ("ml", run_of("/data/else", {**WHOLE, "mountPath": "/data"}, name="second")),
        ("ml", run_of("/out/run", WHOLE, name="second", volumes=other_claim)),
        ("ml", replace(second, is_suspended=True)),
    ):
        refuse_one_output([("ml", first), beside])
