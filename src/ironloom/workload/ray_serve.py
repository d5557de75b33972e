"""What a RayService runs: the language models of serveConfigV2, a text of YAML inside the manifest.

Source: https://docs.ray.io/en/latest/serve/llm/user-guides/configuration.html (LLMConfig)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from ironloom.workload import look
from ironloom.workload.manifests import nodes
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path

CONFIG: Path = ("spec", "serveConfigV2")
LLM = "ray.serve.llm"


class RayModel(msgspec.Struct, frozen=True, kw_only=True):
    """One LLMConfig of an application that ray.serve.llm builds."""

    name: str
    model: str
    """model_source, or the id where that stands for it; empty where neither is a hub's name."""
    engine: Mapping[str, Any]
    """engine_kwargs, as vLLM's AsyncEngineArgs takes them."""
    accelerator: str
    deployment: Mapping[str, Any]
    has_placement: bool
    """Whether it says itself in which bundles its GPUs lie."""
    path: Path = ()
    """Where it stands in the config."""

    @property
    def num_gpus(self) -> int:
        """Of one replica: tensor parallel times pipeline parallel."""
        return self.size("tensor_parallel_size") * self.size("pipeline_parallel_size")

    def size(self, name: str) -> int:
        return max(1, look.count(self.engine, name))

    @property
    def least_replicas(self) -> int:
        scaling = look.mapping(self.deployment, "autoscaling_config")
        return look.count(scaling, "min_replicas") if scaling else look.count(self.deployment, "num_replicas")


def config_of(document: Document) -> Any:
    """What serveConfigV2 says. Raises ManifestError where it is no YAML."""
    root = root_of(document)
    return root.value if root is not None else None


def root_of(document: Document) -> nodes.Node | None:
    """The same with the places of its parts, which are those in the text. Raises ManifestError."""
    found = list(nodes.parse(look.text(document.obj, *CONFIG), document.file))
    return found[0] if found else None


def models_of(config: object) -> Iterator[RayModel]:
    """The models of the applications that ray.serve.llm builds, from a config as `config_of` reads it."""
    for number, application in look.mappings(config, "applications"):
        if not look.text(application, "import_path").startswith(LLM):
            continue
        for position, one in look.mappings(application, "args", "llm_configs"):
            loading = look.mapping(one, "model_loading_config")
            name = look.text(loading, "model_id")
            yield RayModel(
                name=name,
                model=look.text(loading, "model_source") or name,
                engine=look.mapping(one, "engine_kwargs"),
                accelerator=look.text(one, "accelerator_type"),
                deployment=look.mapping(one, "deployment_config"),
                has_placement=bool(one.get("placement_group_config") or one.get("accelerator_config")),
                path=("applications", number, "args", "llm_configs", position),
            )
