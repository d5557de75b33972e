"""Good manifests, changed at random: whatever comes, it is a Serving or a ManifestError, and soon."""

from __future__ import annotations

import contextlib
import copy
import time
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ironloom.errors import ManifestError
from ironloom.workload.manifests import dump_yaml, nodes, parse_object, read_text, schema, to_workloads
from ironloom.workload.serving import Serving

GOOD: list[dict[str, Any]] = [
    {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": "a",
            "annotations": {"autoscaling.knative.dev/window": "30s", "ironloom.dev/park-for": "1m"},
        },
        "spec": {
            "predictor": {
                "minReplicas": 0,
                "maxReplicas": 3,
                "scaleMetric": "concurrency",
                "scaleTarget": 4,
                "nodeSelector": {"a": "b"},
                "volumes": [{"name": "v", "hostPath": {"path": "/x"}}],
                "model": {
                    "modelFormat": {"name": "huggingface"},
                    "storageUri": "hf://a/b",
                    "args": ["--max-model-len=4096", "--dtype", "half"],
                    "env": [{"name": "A", "value": "b"}, {"name": "T", "valueFrom": {"secretKeyRef": {"key": "k"}}}],
                    "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "1Gi"}},
                },
            }
        },
    },
    {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "c"},
        "spec": {
            "predictor": {
                "containers": [
                    {
                        "name": "k",
                        "image": "vllm/vllm-openai",
                        "command": ["sh", "-c"],
                        "args": ["exec vllm serve /m/x --port $PORT"],
                        "volumeMounts": [{"name": "v", "mountPath": "/m"}],
                    }
                ],
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}],
            }
        },
    },
    {
        "apiVersion": "serving.kserve.io/v1alpha2",
        "kind": "LLMInferenceService",
        "metadata": {"name": "l"},
        "spec": {
            "model": {"uri": "hf://a/b", "name": "l"},
            "scaling": {"minReplicas": 1, "maxReplicas": 2, "keda": {"idleReplicaCount": 0, "cooldownPeriod": 9}},
            "parallelism": {"tensor": 2},
            "template": {
                "containers": [
                    {"name": "main", "args": ["-tp", "2"], "env": [{"name": "VLLM_ADDITIONAL_ARGS", "value": "--x 1"}]}
                ]
            },
        },
    },
    {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"a": "b"}},
            "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "e", "image": "vllm/vllm-openai", "args": ["--model", "a/b"]}]},
            },
        },
    },
    {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"selector": {"a": "b"}}},
]
FIELDS = sorted({name for made in schema.load().types if "object" in made for name in made["object"]})
JUNK = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        1.5,
        10**30,
        "",
        "a",
        "1",
        "--model",
        "$(A)",
        "hf://x",
        "-1",
        "1e9",
        "\n",
        "é",
        [],
        {},
        [None],
        [[]],
        {"a": None},
        [{"name": None}],
        {"": {}},
        ["sh", "-c", "vllm serve '"],
        {"limits": {"nvidia.com/gpu": "1m"}},
    ]
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of an object."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        one = waiting.pop()
        keys: Any = list(one) if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else ()
        for key in keys:
            found.append((one, key))
            waiting.append(one[key])
    return found


@st.composite
def mutated(draw: st.DrawFn) -> list[dict[str, Any]]:
    objects = copy.deepcopy(draw(st.lists(st.sampled_from(GOOD), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(1, 4))):
        spots = places(objects)
        inside, key = spots[draw(st.integers(0, len(spots) - 1))]
        action = draw(st.integers(0, 4))
        if action == 0:
            inside[key] = copy.deepcopy(draw(JUNK))
        elif action == 1:
            del inside[key]
        elif action == 2:
            other, other_key = spots[draw(st.integers(0, len(spots) - 1))]
            inside[key] = copy.deepcopy(other[other_key])
        elif isinstance(inside, dict):
            inside[draw(st.sampled_from(FIELDS) if action == 3 else st.text(max_size=8))] = copy.deepcopy(draw(JUNK))
        else:
            inside.append(copy.deepcopy(draw(JUNK)))
        if not places(objects):
            break
    return objects


def serve(text: str) -> tuple[Serving, ...]:
    """The workloads of a text; none where it is refused, and then with a place and words for a person."""
    try:
        return to_workloads(read_text(text, "f.yaml")).servings
    except ManifestError as error:
        refused = error
    assert refused.file == "f.yaml"
    assert refused.message
    assert "Traceback" not in refused.render()
    return ()


@settings(max_examples=150)
@given(mutated())
def test_a_changed_manifest_is_a_workload_or_a_manifest_error(objects: list[Any]) -> None:
    begin = time.process_time()
    for made in serve(dump_yaml(objects) if objects else "a"):
        assert made.name
        assert made.model_uri
        assert made.scaling.min_replicas >= 0
    for one in objects:
        if isinstance(one, dict):
            with contextlib.suppress(ManifestError):
                parse_object(one)
    assert time.process_time() - begin < 2


@settings(max_examples=200)
@given(
    st.sampled_from([dump_yaml(one) for one in GOOD]),
    st.lists(
        st.tuples(st.integers(0, 1000), st.integers(0, 30), st.text("\n :-[]{}'\"&*!|>#%@,?\t ax0\x00é<", max_size=6))
    ),
)
def test_changed_text_is_a_workload_or_a_manifest_error(text: str, edits: list[tuple[int, int, str]]) -> None:
    for at, length, new in edits:
        at %= len(text) + 1
        text = text[:at] + new + text[at + length :]
    begin = time.process_time()
    serve(text)
    assert time.process_time() - begin < 2


@given(st.binary(max_size=300))
def test_any_text_is_nodes_or_a_manifest_error(data: bytes) -> None:
    with contextlib.suppress(ManifestError):
        list(nodes.parse(data.decode("latin-1"), "f"))
