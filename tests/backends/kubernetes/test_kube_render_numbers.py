"""The numbers that rendering writes agree with each other: `check` finds nothing of them."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ironloom.backends.kubernetes.render.plain import Setting, objects
from ironloom.check.engine import Setting as CheckSetting
from ironloom.check.engine import check
from ironloom.check.inputs import read_texts
from ironloom.workload.manifests import dump_yaml
from ironloom.workload.manifests.read import parse_object
from ironloom.workload.serving import Serving

OF_NUMBERS = frozenset({"IL530", "IL531", "IL532", "IL533"})
"""The rules of probes, graces and deadlines."""

starts = st.none() | st.floats(min_value=0.001, max_value=20_000)
probes = st.none() | st.fixed_dictionaries(
    {"httpGet": st.just({"path": "/health", "port": 8000})},
    optional={
        "periodSeconds": st.integers(1, 60),
        "failureThreshold": st.integers(1, 600),
        "initialDelaySeconds": st.integers(0, 600),
    },
)


def service(*, deadline_s: int, timeout_s: int, probe: dict[str, Any] | None) -> Serving:
    container = {
        "name": "kserve-container",
        "image": "vllm/vllm-openai:v0.26.0",
        "args": ["--model", "Qwen/Qwen3-0.6B"],
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
        **({} if probe is None else {"startupProbe": probe}),
    }
    return parse_object(
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": "a", "annotations": {"serving.knative.dev/progress-deadline": f"{deadline_s}s"}},
            "spec": {"predictor": {"timeout": timeout_s, "containers": [container]}},
        }
    )


@given(deadline_s=st.integers(1, 7200), timeout_s=st.integers(1, 3600), seen_s=starts, predicted_s=starts, probe=probes)
def test_what_is_rendered_has_no_finding_of_its_own_numbers(
    deadline_s: int, timeout_s: int, seen_s: float | None, predicted_s: float | None, probe: dict[str, Any] | None
) -> None:
    setting = Setting(seen_start_s=seen_s, predicted_start_s=predicted_s)
    made = objects(service(deadline_s=deadline_s, timeout_s=timeout_s, probe=probe), setting)
    found = check(read_texts({"a (as applied)": dump_yaml(made)}), None, CheckSetting()).findings
    assert [one.message for one in found if one.rule == "IL533"] == []
    if probe is None and deadline_s >= 600:  # a shorter one is the manifest's own number
        assert [one.message for one in found if one.rule in OF_NUMBERS] == []


@given(seen_s=st.floats(min_value=201, max_value=20_000))
def test_what_is_said_of_the_probe_is_what_it_waits(seen_s: float) -> None:
    setting = Setting(seen_start_s=seen_s)
    made = objects(service(deadline_s=600, timeout_s=60, probe=None), setting)[0]
    probe = made["spec"]["template"]["spec"]["containers"][0]["startupProbe"]
    allowed_s = probe["periodSeconds"] * probe["failureThreshold"]
    assert setting.notes[0].endswith(f"the startup probe allows {allowed_s} s")
