"""The text inside a RayService: its models against vLLM's arguments, the workers' GPUs and the heads."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from ironloom.check import registry
from ironloom.check.engine import Setting, check
from ironloom.check.inputs import read_texts

RULES = registry.select(["IL432", "IL433", "IL434", "IL435", "IL525"])


def pods(gpus: int) -> dict[str, Any]:
    limits = {"nvidia.com/gpu": gpus} if gpus else {}
    return {
        "spec": {"containers": [{"name": "ray", "image": "rayproject/ray-llm:2.52.0", "resources": {"limits": limits}}]}
    }


def service(config: Any, *, gpus: int = 8, most: int = 1, hosts: int = 1) -> str:
    group = {"groupName": "gpu", "replicas": 1, "minReplicas": 1, "maxReplicas": most, "numOfHosts": hosts}
    cluster = {
        "headGroupSpec": {"rayStartParams": {}, "template": pods(0)},
        "workerGroupSpecs": [{**group, "rayStartParams": {}, "template": pods(gpus)}],
    }
    text = config if isinstance(config, str) else yaml.safe_dump(config)
    return yaml.safe_dump(
        {
            "apiVersion": "ray.io/v1",
            "kind": "RayService",
            "metadata": {"name": "a"},
            "spec": {"serveConfigV2": text, "rayClusterConfig": cluster},
        }
    )


def llm(*models: dict[str, Any], path: str = "ray.serve.llm:build_openai_app") -> dict[str, Any]:
    return {"applications": [{"name": "llm", "import_path": path, "args": {"llm_configs": list(models)}}]}


def model(
    name: str = "Qwen/Qwen3-32B", *, replicas: int | None = None, scaling: Any = None, more: Any = None, **engine: Any
) -> dict[str, Any]:
    deployment: dict[str, Any] = {}
    if replicas is not None:
        deployment["num_replicas"] = replicas
    if scaling is not None:
        deployment["autoscaling_config"] = scaling
    loading = {"model_id": "m", "model_source": name}
    return {"model_loading_config": loading, "engine_kwargs": engine, "deployment_config": deployment, **(more or {})}


def rules(text: str) -> list[str]:
    result = check(read_texts({"a.yaml": text}), RULES, Setting())
    assert result.faults == ()
    return [finding.rule for finding in result.findings]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (service("applications: [a"), ["IL432"]),
        (service("applications: []"), ["IL432"]),
        (service("just words"), ["IL432"]),
        (service("{{ .Values.serveConfig }}"), []),
        (service(""), []),
        (service(llm(model())), []),
        (service({"applications": [3, {"import_path": 4, "args": [5]}]}), []),
        (service(llm(model(tensor_paralel_size=1))), ["IL433"]),
        (service(llm(model(max_model_len=4096, dtype="auto", enable_prefix_caching=True))), []),
        (service(llm(model(some_field_of_its_own=1))), []),
        (service(llm(model(tensor_paralel_size=1), path="app:build")), []),
        (service(llm(model(tensor_parallel_size=8, pipeline_parallel_size=2))), ["IL434"]),
        (service(llm(model(tensor_parallel_size=8, pipeline_parallel_size=2)), most=2), []),
        (service(llm(model(tensor_parallel_size=8, pipeline_parallel_size=2)), hosts=2), []),
        (service(llm(model(tensor_parallel_size=8, replicas=2))), ["IL434"]),
        (service(llm(model(tensor_parallel_size=4), model(tensor_parallel_size=8))), ["IL434"]),
        (service(llm(model(tensor_parallel_size=4), model(tensor_parallel_size=4))), []),
        (service(llm(model(tensor_parallel_size=8)), gpus=4, most=2), ["IL434"]),
        (service(llm(model(tensor_parallel_size=8)), gpus=0), []),
        (service(llm(model(tensor_parallel_size=16, more={"placement_group_config": {"bundles": []}}))), []),
        (service(llm(model(tensor_parallel_size=6))), ["IL435"]),
        (service(llm(model("someone/unheard-of", tensor_parallel_size=6))), []),
        (service(llm(model(scaling={"min_replicas": 2, "max_replicas": 1})), most=4), ["IL525"]),
        (service(llm(model(scaling={"min_replicas": 1}, replicas=1))), ["IL525"]),
        (service(llm(model(scaling={"min_replicas": 0, "max_replicas": 4}))), []),
    ],
)
def test_what_a_ray_service_runs_is_held_against_what_it_has(text: str, told: list[str]) -> None:
    assert rules(text) == told


BLOCK = """\
apiVersion: ray.io/v1
kind: RayService
metadata:
  name: a
spec:
  serveConfigV2: |
    # what is served

    applications:
    - name: llm
      import_path: ray.serve.llm:build_openai_app
      args:
        llm_configs:
        - model_loading_config: {model_id: Qwen/Qwen3-32B}
          engine_kwargs:
            tensor_parallel_size: 6
            max_modle_len: 8192
          deployment_config:
            num_replicas: 3
            autoscaling_config: {min_replicas: 4, max_replicas: 2}
  rayClusterConfig:
    workerGroupSpecs:
    - groupName: gpu
      replicas: 1
      minReplicas: 1
      maxReplicas: 1
      rayStartParams: {}
      template:
        spec:
          containers:
          - name: ray
            image: rayproject/ray-llm:2.52.0
            resources: {limits: {nvidia.com/gpu: 4}}
"""


def places(text: str) -> dict[tuple[str, str], str]:
    """Of each finding: the rule and the text of its line from its column on."""
    result = check(read_texts({"a.yaml": text}), RULES, Setting())
    assert result.faults == ()
    lines = text.split("\n")
    return {(one.rule, lines[one.line - 1][one.column - 1 :]): one.message for one in result.findings}


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_finding_inside_the_text_stands_on_its_line(ends: str) -> None:
    found = {(rule, text.strip()) for rule, text in places(BLOCK.replace("\n", ends))}
    assert found == {
        ("IL433", "max_modle_len: 8192"),
        ("IL434", "6"),
        ("IL435", "6"),
        ("IL525", "4, max_replicas: 2}"),
        ("IL525", "3"),
    }


def test_a_text_that_is_no_yaml_is_told_where_it_breaks() -> None:
    text = BLOCK.replace("ray.serve.llm:build_openai_app", "[ray")
    result = check(read_texts({"a.yaml": text}), RULES, Setting())
    (found,) = [one for one in result.findings if one.rule == "IL432"]
    assert text.splitlines()[found.line - 1].strip() == "args:"


def test_a_text_whose_lines_are_folded_or_quoted_is_told_at_its_key() -> None:
    for style in ('"applications: []"', "'applications: []'", ">\n    applications: []"):
        text = f"apiVersion: ray.io/v1\nkind: RayService\nmetadata: {{name: a}}\nspec:\n  serveConfigV2: {style}\n"
        ((rule, line),) = places(text)
        assert (rule, line.partition(":")[0]) == ("IL432", "serveConfigV2")
    head = "apiVersion: ray.io/v1\nkind: RayService\nmetadata: {name: a}\nspec:\n"
    assert list(places(f"{head}  serveConfigV2: |\n    applications: []\n")) == [("IL432", "applications: []")]
