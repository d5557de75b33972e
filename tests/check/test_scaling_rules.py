"""Autoscalers, rollouts and probes: what must be found, and what must not be said."""

from __future__ import annotations

from typing import Any

import pytest

from ironloom.check import registry
from ironloom.check.engine import Setting, check
from ironloom.check.finding import Finding, Severity
from ironloom.check.inputs import read_texts
from ironloom.check.rules import examples
from ironloom.check.rules.probes import budget_s
from ironloom.check.rules.rollout import surge_of
from ironloom.workload.manifests import nodes
from ironloom.workload.manifests.document import document

RULES = registry.select(["autoscaling", "rollout"])
READY = "        readinessProbe: {httpGet: {path: /health, port: 8000}}\n"


def findings(text: str, setting: Setting | None = None, *, file: str = "a.yaml", **files: str) -> list[Finding]:
    texts = {file: text, **{name.replace("__", "/") + ".yaml": content for name, content in files.items()}}
    result = check(read_texts(texts), RULES, setting or Setting())
    assert result.faults == ()
    return list(result.findings)


def ids(*args: Any, **words: Any) -> list[str]:
    return [finding.rule for finding in findings(*args, **words)]


def server(lines: str = READY, *, spec: str = "", pod: str = "", gpus: int = 1, args: str = "") -> str:
    """A Deployment that serves a model with vLLM."""
    return f"""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
spec:
{spec}  selector: {{matchLabels: {{app: llama}}}}
  template:
    metadata: {{labels: {{app: llama}}}}
    spec:
{pod}      containers:
      - name: main
        image: vllm/vllm-openai:v0.18.0
        args: [--model, Qwen/Qwen3-8B{args}]
        resources: {{limits: {{nvidia.com/gpu: {gpus}}}, requests: {{cpu: 4}}}}
{lines}"""


def hpa(metrics: str, *, low: int = 1, high: int = 4, kind: str = "Deployment", name: str = "llama") -> str:
    return f"""\
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {name}
spec:
  scaleTargetRef: {{apiVersion: apps/v1, kind: {kind}, name: {name}}}
  minReplicas: {low}
  maxReplicas: {high}
  metrics:
{metrics}"""


def keda(query: str, *, low: int | None = 1, kind: str = "prometheus", more: str = "") -> str:
    least = "" if low is None else f"  minReplicaCount: {low}\n"
    return f"""\
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: llama
spec:
  scaleTargetRef: {{name: llama}}
{least}{more}  triggers:
  - type: {kind}
    metadata: {{query: '{query}', threshold: '5'}}
"""


CPU = "  - type: Resource\n    resource: {name: cpu, target: {type: Utilization, averageUtilization: 60}}\n"
QUEUE = "  - type: Pods\n    pods: {metric: {name: waiting}, target: {type: AverageValue, averageValue: 5}}\n"


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        (server() + hpa(CPU), ["IL510"]),
        (server() + hpa(QUEUE), []),
        (server() + hpa(CPU + QUEUE), []),
        (server(gpus=0) + hpa(CPU), []),
        (server().replace("vllm/vllm-openai:v0.18.0", "nginx").replace("--model, Qwen/Qwen3-8B", "a") + hpa(CPU), []),
        (server() + hpa(CPU, kind="StatefulSet"), []),
        (server() + hpa(CPU, name="other"), []),
    ],
)
def test_a_gpu_server_is_not_scaled_by_cpu_alone(text: str, rules: list[str]) -> None:
    assert ids(text) == rules


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        (keda("sum(vllm:num_requests_waiting)", low=0), ["IL512"]),
        (keda("sum(vllm:num_requests_waiting)", low=None), ["IL512"]),
        (keda("sum(vllm:num_requests_waiting)", low=1), []),
        (keda("sum(vllm:num_requests_waiting)", low=1, more="  idleReplicaCount: 0\n"), ["IL512"]),
        (keda("sum(vllm:num_incoming_requests_total)", low=0), []),
        (keda("sum(rate(http_requests_total[1m]))", low=0), []),
        (keda("sum(vllm:num_requests_waiting) or vector(0)", low=0), []),
        (keda("", low=0, kind="cpu"), ["IL512"]),
        (keda("", low=0, kind="external-push"), []),
        (keda("x", low=2, more="  idleReplicaCount: 2\n"), ["IL504"]),
        (keda("x", low=2, more="  idleReplicaCount: 1\n"), ["IL504"]),
        (keda("x", low=5, more="  maxReplicaCount: 3\n"), ["IL503"]),
        (server() + keda("avg(DCGM_FI_DEV_GPU_UTIL)"), ["IL511"]),
        (keda("avg(DCGM_FI_DEV_GPU_UTIL)"), []),
    ],
)
def test_keda_must_have_a_signal_at_zero_and_bounds_in_order(text: str, rules: list[str]) -> None:
    assert ids(text) == rules


def test_two_autoscalers_of_one_target_are_an_error_in_one_file_and_a_note_in_two() -> None:
    one, other = keda("x"), hpa(QUEUE)
    assert [(found.rule, found.severity) for found in findings(one + other)] == [("IL502", Severity.ERROR)]
    assert [(found.rule, found.severity) for found in findings(one, b=other)] == [("IL502", Severity.NOTE)]
    assert findings(one, folder__b=other) == []
    assert findings(one + other.replace("name: llama", "name: other")) == []


def test_replicas_beside_an_autoscaler_are_a_note_and_a_warning_outside_of_its_bounds() -> None:
    for number, severity in ((2, Severity.NOTE), (9, Severity.WARNING)):
        found = findings(server(spec=f"  replicas: {number}\n") + hpa(QUEUE))
        assert [(one.rule, one.severity) for one in found] == [("IL505", severity)]


def test_of_two_workloads_of_one_name_nobody_knows_which_is_scaled() -> None:
    assert findings(server(spec="  replicas: 2\n") + hpa(QUEUE), b=server()) == []


ISVC = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: llama
  annotations: {{{annotations}}}
spec:
  predictor:
{lines}    model:
      modelFormat: {{name: huggingface}}
      storageUri: hf://Qwen/Qwen3-8B
      resources: {{limits: {{nvidia.com/gpu: 1}}}}
"""
STANDARD = "serving.kserve.io/deploymentMode: Standard"
KNATIVE = "serving.kserve.io/deploymentMode: Knative"


@pytest.mark.parametrize(
    ("annotations", "lines", "rules"),
    [
        (STANDARD, "    minReplicas: 1\n    maxReplicas: 4\n", ["IL510"]),
        (STANDARD, "    minReplicas: 1\n    maxReplicas: 1\n", []),
        (STANDARD, "    minReplicas: 5\n    maxReplicas: 4\n", ["IL503"]),
        (f"{STANDARD}, serving.kserve.io/autoscalerClass: external", "    maxReplicas: 4\n", []),
        (STANDARD, "    containerConcurrency: 4\n", ["IL515"]),
        ("", "    containerConcurrency: 1\n", ["IL516"]),
        ("", "    containerConcurrency: 64\n", []),
        (f"{STANDARD}, autoscaling.knative.dev/target: '5'", "", ["IL515"]),
        (f"{STANDARD}, autoscaling.knative.dev/class: hpa.autoscaling.knative.dev", "", []),
        ("autoscaling.knative.dev/target: '5'", "", []),
        (f"{STANDARD}, serving.kserve.io/autoscalerClass: keda", "    workerSpec: {}\n", ["IL517"]),
        (KNATIVE, "    deploymentStrategy: {type: Recreate}\n", ["IL518"]),
        (f"{KNATIVE}, serving.kserve.io/autoscalerClass: hpa", "", ["IL518"]),
        ("", "    deploymentStrategy: {type: Recreate}\n", []),
        (KNATIVE, "    containerConcurrency: 16\n    scaleTarget: 32\n", ["IL519"]),
        (KNATIVE, "    containerConcurrency: 16\n    scaleTarget: 32\n    scaleMetric: rps\n", []),
        (KNATIVE, "    containerConcurrency: 0\n    scaleTarget: 32\n", []),
    ],
)
def test_kserve_s_settings_are_those_of_its_mode(annotations: str, lines: str, rules: list[str]) -> None:
    assert ids(ISVC.format(annotations=annotations, lines=lines)) == rules


@pytest.mark.parametrize(
    ("strategy", "replicas", "expected"),
    [
        ("", 1, (1, 0)),
        ("", 3, (1, 0)),
        ("", 4, (1, 1)),
        ("", 10, (3, 2)),
        ("strategy: {type: Recreate}", 1, None),
        ("strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 1}}", 1, (0, 1)),
        ("strategy: {rollingUpdate: {maxSurge: x}}", 1, None),
    ],
)
def test_surge_is_rounded_up_and_unavailable_down(
    strategy: str, replicas: int, expected: tuple[int, int] | None
) -> None:
    text = f"apiVersion: apps/v1\nkind: Deployment\nspec:\n  replicas: {replicas}\n  {strategy}\n"
    (node,) = nodes.parse(text, "a.yaml")
    assert surge_of(document(node, "a.yaml", text)) == expected


@pytest.mark.parametrize(
    ("num_nodes", "replicas", "strategy", "rules"),
    [
        (1, 1, "", ["IL520"]),
        (2, 1, "", []),  # room for the pod that comes first
        (3, 3, "", ["IL520"]),
        (1, 3, "", []),  # they do not even fit: another rule's
        (1, 1, "  strategy: {type: Recreate}\n", []),
        (1, 1, "  strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 1}}\n", []),
        (4, 4, "", []),  # 25 % of four is one that may be missing
    ],
)
def test_a_rollout_needs_room_for_the_pod_that_comes_first(
    num_nodes: int, replicas: int, strategy: str, rules: list[str]
) -> None:
    fleet = examples.fleet(*(examples.node(f"x{index}") for index in range(num_nodes)))
    text = server(spec=f"  replicas: {replicas}\n{strategy}", gpus=8)
    assert ids(text, Setting(fleet=fleet)) == rules


def test_a_pool_that_can_grow_is_room() -> None:
    pool = examples.pool("gpus", num_nodes=1, max_nodes=4)
    fleet = examples.fleet(examples.node("x1"), pools=(pool,))
    assert ids(server(gpus=8), Setting(fleet=fleet)) == []


CLAIM = "---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: models}\nspec: {accessModes: [MODE]}\n"
VOLUME = "      volumes: [{name: m, persistentVolumeClaim: {claimName: models}}]\n"


@pytest.mark.parametrize(
    ("mode", "spec", "rules"),
    [
        ("ReadWriteOnce", "", ["IL522"]),
        ("ReadWriteOnce", "  replicas: 2\n", ["IL522"]),
        ("ReadWriteMany", "  replicas: 2\n", []),
        ("ReadWriteOnce", "  strategy: {type: Recreate}\n", []),
    ],
)
def test_a_volume_of_one_node_does_not_follow_a_rollout(mode: str, spec: str, rules: list[str]) -> None:
    assert ids(server(pod=VOLUME, spec=spec) + CLAIM.replace("MODE", mode)) == rules


@pytest.mark.parametrize(
    ("budget", "replicas", "rules"),
    [
        ("minAvailable: 1", 1, ["IL523"]),
        ("minAvailable: 1", 2, []),
        ("minAvailable: 2", 2, ["IL523"]),
        ("maxUnavailable: 0", 5, ["IL523"]),
        ("maxUnavailable: 1", 1, []),
        ("minAvailable: 100%", 5, ["IL523"]),
        ("minAvailable: 50%", 1, []),
    ],
)
def test_a_budget_must_let_a_pod_go(budget: str, replicas: int, rules: list[str]) -> None:
    text = "---\napiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: a}\nspec:\n"
    text += "  selector: {matchLabels: {app: llama}}\n"
    assert ids(server(spec=f"  replicas: {replicas}\n") + text + f"  {budget}\n") == rules


STARTED = "        startupProbe: {httpGet: {path: /health, port: 8000}, periodSeconds: 10, failureThreshold: N}\n"


@pytest.mark.parametrize(
    ("lines", "rules"),
    [
        ("", ["IL530"]),
        (READY, []),
        (READY + "        livenessProbe: {httpGet: {path: /health, port: 8000}}\n", ["IL531"]),
        (READY + "        livenessProbe: {httpGet: {path: /health, port: 8000}, initialDelaySeconds: 300}\n", []),
        (READY + "        livenessProbe: {exec: {command: [live]}}\n", []),
        (
            READY + "        livenessProbe: {httpGet: {path: /health, port: 8000}}\n" + STARTED.replace("N", "30"),
            [],
        ),
        (STARTED.replace("N", "3"), ["IL531"]),
        (STARTED.replace("N", "60"), []),
        (STARTED.replace("N", "61"), ["IL533"]),
    ],
)
def test_probes_give_a_model_the_time_to_load(lines: str, rules: list[str]) -> None:
    assert ids(server(lines)) == rules


@pytest.mark.parametrize(
    ("args", "pod", "lines", "rules"),
    [
        ("", "", "", []),
        (", --shutdown-timeout, '20'", "", "", []),
        (", --shutdown-timeout, '30'", "", "", ["IL532"]),
        (", --shutdown-timeout, '60'", "      terminationGracePeriodSeconds: 90\n", "", []),
        ("", "", "        lifecycle: {preStop: {exec: {command: [/bin/sh, -c, sleep 30]}}}\n", ["IL532"]),
        ("", "", "        lifecycle: {preStop: {sleep: {seconds: 15}}}\n", []),
        (", --shutdown-timeout, '20'", "", "        lifecycle: {preStop: {sleep: {seconds: 15}}}\n", ["IL532"]),
    ],
)
def test_what_drains_must_have_the_time_to(args: str, pod: str, lines: str, rules: list[str]) -> None:
    assert ids(server(READY + lines, args=args, pod=pod)) == rules


def test_a_probe_s_budget_has_kubernetes_defaults() -> None:
    assert budget_s({}) == 30
    assert budget_s({"initialDelaySeconds": 15, "periodSeconds": 5, "failureThreshold": 2}) == 25


def test_a_server_without_a_probe_is_offered_one_on_the_port_that_it_listens_on() -> None:
    text = server("", args=", --port, '9000'")
    (finding,) = findings(text)
    assert finding.patch is not None
    assert not finding.patch.is_safe
    (edit,) = finding.patch.edits
    made = text[: edit.start] + edit.text + text[edit.end :]
    assert "        readinessProbe:\n          httpGet:\n            path: /health\n            port: 9000\n" in made
    assert findings(made) == []
