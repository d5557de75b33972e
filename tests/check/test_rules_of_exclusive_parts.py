"""What the expressions in the definitions of KServe, JobSet, Trainer and Kueue refuse, and what they let pass."""

from __future__ import annotations

import pytest

from ironloom.check import registry
from ironloom.check.engine import Setting, check
from ironloom.check.inputs import read_texts

RULES = registry.select(["IL010", "IL027", "IL028", "IL029", "IL030", "IL031", "IL633", "IL634"])


def found(text: str, file: str = "a.yaml") -> list[tuple[str, int]]:
    result = check(read_texts({file: text}), RULES, Setting())
    assert result.faults == ()
    return [(finding.rule, finding.line) for finding in result.findings]


def llm(lines: str) -> str:
    return f"""\
apiVersion: serving.kserve.io/v1alpha2
kind: LLMInferenceService
metadata:
  name: qwen
spec:
  model:
    uri: hf://Qwen/Qwen3-8B
{lines}"""


SCALING = "  scaling:\n    maxReplicas: 4\n"
TRIGGERS = "      triggers:\n      - type: cpu\n"


@pytest.mark.parametrize(
    ("lines", "lines_told"),
    [
        (f"  replicas: 2\n{SCALING}    keda:\n{TRIGGERS}", [8]),
        (SCALING, [8]),
        (f"{SCALING}    keda:\n{TRIGGERS}    wva:\n      hpa: {{}}\n", [10]),
        (f"{SCALING}    wva: {{}}\n", [10]),
        (f"{SCALING}    wva:\n      hpa: {{}}\n      keda: {{}}\n", [10]),
        (f"{SCALING}    keda:\n      triggers: []\n", [11]),
        (f"{SCALING}    keda:\n      idleReplicaCount: 1\n{TRIGGERS}", [11]),
        (f"{SCALING}    minReplicas: 0\n    keda:\n      idleReplicaCount: 0\n{TRIGGERS}", [12]),
        (f"{SCALING}    wva:\n      keda:\n        advanced: {{scalingModifiers: {{formula: a}}}}\n", [12]),
        (f"{SCALING}    keda:\n{TRIGGERS}      advanced: {{horizontalPodAutoscalerConfig: {{name: a}}}}\n", [13]),
        (f"{SCALING}    keda:\n      idleReplicaCount: 0\n{TRIGGERS}", []),
        (f"{SCALING}    wva:\n      hpa: {{}}\n", []),
        ("  replicas: 2\n", []),
        ("  scaling: 3\n", []),
    ],
)  # fmt: skip
def test_the_scaling_of_an_llm_service_has_one_decider(lines: str, lines_told: list[int]) -> None:
    assert found(llm(lines)) == [("IL027", line) for line in lines_told]


def test_the_scaling_of_prefill_is_held_to_the_same() -> None:
    assert found(llm("  prefill:\n    replicas: 1\n    scaling:\n      maxReplicas: 2\n")) == [
        ("IL027", 9),
        ("IL027", 10),
    ]


def test_a_patch_of_an_llm_service_is_not_held_against_what_it_is_laid_over() -> None:
    assert found(llm(SCALING), "scaling-patch.yaml") == []


@pytest.mark.parametrize(
    ("toleration", "line"),
    [
        ("{key: a, operator: Exists, value: b}", 7),
        ("{operator: Equal, effect: NoSchedule}", 7),
        ("{effect: NoSchedule}", 7),
        ("{key: a, operator: Exists, effect: NoSchedule, tolerationSeconds: 30}", 7),
        ("{key: a, operator: Exists, value: ''}", None),
        ("{key: a, value: b}", None),
        ("{key: a}", None),
        ("{operator: Exists}", None),
        ("{key: a, operator: Exists, effect: NoExecute, tolerationSeconds: 30}", None),
        ("{key: a, operator: Exists, value: '{{ taint }}'}", None),
        ("{}", None),
        ("3", None),
    ],
)
def test_a_toleration_says_one_thing(toleration: str, line: int | None) -> None:
    pod = f"""\
apiVersion: v1
kind: Pod
metadata:
  name: a
spec:
  tolerations:
  - {toleration}
  containers:
  - name: main
    image: a:1
"""
    flavor = f"""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: ResourceFlavor
metadata:
  name: a
spec:
  tolerations:
  - {toleration}
"""
    assert found(pod) == ([("IL028", line)] if line else [])
    assert found(flavor) == ([("IL633", line)] if line else [])


def test_the_start_of_a_runtimes_jobs_is_said_once() -> None:
    runtime = """\
apiVersion: trainer.kubeflow.org/v1alpha1
kind: TrainingRuntime
metadata:
  name: a
spec:
  template:
    spec:
      startupPolicy:
        startupPolicyOrder: {order}
      replicatedJobs:
      - name: model
      - name: node
        dependsOn:
        - name: model
          status: Complete
"""
    assert found(runtime.format(order="InOrder")) == [("IL029", 13)]
    assert found(runtime.format(order="AnyOrder")) == []


@pytest.mark.parametrize("name", ["a.b", "4bit-run", "a" * 64])
def test_a_train_job_is_named_like_a_host(name: str) -> None:
    assert found(f"apiVersion: trainer.kubeflow.org/v1alpha1\nkind: TrainJob\nmetadata:\n  name: {name}\n") == [
        ("IL010", 4)
    ]


@pytest.mark.parametrize(
    ("spec", "is_told"),
    [
        ("initializer: {dataset: {storageUri: tatsu-lab/alpaca}}", True),
        ("initializer: {model: {storageUri: '://x'}}", True),
        ("initializer: {model: {storageUri: ''}}", False),
        ("initializer: {model: {storageUri: $MODEL_URI}}", False),
        ("initializer: {model: {storageUri: s3://models/llama}}", False),
        ("managedBy: kueue", True),
        ("managedBy: kueue.x-k8s.io/multikueue", False),
    ],
)
def test_a_train_job_keeps_to_its_definition(spec: str, is_told: bool) -> None:
    job = f"apiVersion: trainer.kubeflow.org/v1alpha1\nkind: TrainJob\nmetadata:\n  name: a\nspec:\n  {spec}\n"
    assert found(job) == ([("IL031", 6)] if is_told else [])


@pytest.mark.parametrize(
    ("fungibility", "is_told"),
    [
        ("{preference: BorrowingOverPreemption}", True),
        ("{whenCanBorrow: TryNextFlavor, preference: BorrowingOverPreemption}", False),
        ("{whenCanBorrow: TryNextFlavor, whenCanPreempt: MayStopSearch, preference: BorrowingOverPreemption}", True),
        ("{whenCanBorrow: MayStopSearch}", False),
    ],
)
def test_a_preference_needs_a_look_at_every_flavor(fungibility: str, is_told: bool) -> None:
    queue = f"""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: ClusterQueue
metadata:
  name: a
spec:
  namespaceSelector: {{}}
  flavorFungibility: {fungibility}
"""
    assert found(queue) == ([("IL634", 7)] if is_told else [])
