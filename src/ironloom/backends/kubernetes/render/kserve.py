"""A service as KServe's own InferenceService, where the cluster serves that kind: KServe makes the Deployment, and its
scale is ours.

    metadata      the manifest's, with the deployment mode Standard and the autoscaler class `external`, where the
                  manifest names none: KServe then makes no autoscaler and leaves the replica count alone
    predictor     the manifest's; labels by which its pods are found; what GPU pods need, as for plain kinds
    runtime       a ServingRuntime of vLLM where none in the cluster serves the model's format

Source of KServe's side, v0.20.0: https://github.com/kserve/kserve/blob/v0.20.0/pkg/constants/constants.go (annotations,
modes, names) and
https://github.com/kserve/kserve/blob/v0.20.0/pkg/controller/v1beta1/inferenceservice/reconcilers/deployment/deployment_reconciler.go
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Final

from ironloom.backends.kubernetes.names import GENERATION_LABEL, MANAGED_BY, SERVICE_LABEL
from ironloom.backends.kubernetes.render import cpu, plain
from ironloom.backends.kubernetes.render.plain import Object, Setting
from ironloom.backends.kubernetes.unlisted import REMEDY
from ironloom.workload.serving import Serving

MODE: Final = "serving.kserve.io/deploymentMode"
AUTOSCALER: Final = "serving.kserve.io/autoscalerClass"
KNATIVE_MODES: Final = frozenset({"Knative", "Serverless"})
"""Serverless is its older name."""
MODELS: Final = "/mnt/models"
"""Where KServe's storage initializer puts what storageUri names."""
OUR_FORMATS: Final = frozenset({"huggingface", "vllm", "safetensors"})
"""Model formats that vLLM reads, in lower case."""
_OURS: Final = frozenset({"name", "namespace", "labels", "annotations"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """What is asked of a ServingRuntime or ClusterServingRuntime."""

    name: str
    formats: frozenset[str]
    """Model formats that it is chosen for by itself, in lower case."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What the cluster has of KServe that a service needs to know."""

    mode: str = ""
    """status.deploymentMode of the InferenceService that is there; it outranks the annotation."""
    runtimes: tuple[Runtime, ...] | None = None
    """None where they may not be listed."""


def deployment_of(serving: Serving) -> str:
    """The name of the Deployment that KServe makes of its predictor."""
    named = _predictor(serving).get("name")
    return f"{serving.name}-{named}-predictor" if named else f"{serving.name}-predictor"


def writer_of_scale(serving: Serving, found: Found) -> str:
    """Who scales it, where that is not Ironloom; empty where it is."""
    if (found.mode or serving.annotations.get(MODE, "")) in KNATIVE_MODES:
        return "Knative"
    named = serving.annotations.get(AUTOSCALER, "")
    if _predictor(serving).get("workerSpec"):
        return "KServe (a workerSpec is accepted with the autoscaler class none alone)"
    return f"KServe (autoscaler class {named})" if named not in {"", "external"} else ""


def objects(serving: Serving, setting: Setting, found: Found) -> list[Object]:
    """The InferenceService, after the ServingRuntime that it needs, and a PodDisruptionBudget where it keeps more than
    one replica."""
    labels = {**serving.labels, **MANAGED_BY, SERVICE_LABEL: serving.name}
    manifest = deepcopy(serving.manifest)
    predictor = manifest["spec"]["predictor"]
    is_multi_node = bool(predictor.get("workerSpec"))
    annotations = dict(serving.annotations)
    writer = writer_of_scale(serving, found)
    if writer == "Knative":
        setting.notes.append(
            "it runs in KServe's Knative mode and is left to Knative, which scales it: ask it at its own address"
        )
    else:
        annotations.setdefault(MODE, "Standard")
        annotations.setdefault(AUTOSCALER, "none" if is_multi_node else "external")
        if "scaleTarget" in predictor and serving.scaling.target is None:
            predictor.setdefault("scaleMetric", "cpu")  # what a target alone means in a Standard mode of its writer's
        if not writer:
            setting.notes.append("KServe runs it in Standard mode; its scale is Ironloom's (autoscaler class external)")
    predictor["labels"] = {
        **(predictor.get("labels") or {}),
        SERVICE_LABEL: serving.name,
        GENERATION_LABEL: str(setting.generation),
    }
    made: list[Object] = []
    runtime = _runtime(serving, setting, found, predictor, labels)
    if runtime is not None:
        made.append(runtime)
    if writer != "Knative":
        _complete(serving, setting, predictor)
    metadata = {key: value for key, value in (manifest.get("metadata") or {}).items() if key in _OURS}
    made.append(
        {
            "apiVersion": manifest["apiVersion"],
            "kind": "InferenceService",
            "metadata": {
                **metadata,
                "name": serving.name,
                "namespace": serving.namespace,
                "labels": labels,
                "annotations": annotations,
            },
            "spec": manifest["spec"],
        }
    )
    if writer != "Knative" and not setting.has_spare_gpus and "deploymentStrategy" not in predictor:
        predictor["deploymentStrategy"] = {"type": "RollingUpdate", "rollingUpdate": plain.surge(setting)}
        plain.tell_surge(setting)
    if predictor.get("containers"):
        made += plain.claims(serving)
    if serving.scaling.min_replicas > 1 and not writer:
        made.append(plain.budget(serving, labels))
    return made


def runtimes(items: Iterable[Mapping[str, Any]]) -> tuple[Runtime, ...]:
    """Of the objects of a list; those that are switched off are none."""
    return tuple(
        Runtime(
            name=one["metadata"]["name"],
            formats=frozenset(
                str(known.get("name", "")).lower()
                for known in one["spec"].get("supportedModelFormats") or ()
                if known.get("autoSelect")
            ),
        )
        for one in items
        if not one["spec"].get("disabled")
    )


def _predictor(serving: Serving) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (serving.manifest.get("spec") or {}).get("predictor") or {}
    return found


def lacks_runtime(serving: Serving, found: Found) -> bool:
    """Whether a model's format is one that Ironloom has a ServingRuntime for, and no other of the cluster serves it."""
    predictor = (serving.manifest.get("spec") or {}).get("predictor") or {}
    wanted = str(((predictor.get("model") or {}).get("modelFormat") or {}).get("name", "")).lower()
    others = [one for one in found.runtimes or () if one.name != serving.name]
    return wanted in OUR_FORMATS and not any(wanted in one.formats for one in others)


def _runtime(
    serving: Serving, setting: Setting, found: Found, predictor: Object, labels: Mapping[str, str]
) -> Object | None:
    """A ServingRuntime for a model whose format none of the cluster's serves, and the predictor told to use it."""
    model = predictor.get("model")
    # One of the service's own name is made here: a manifest that was read back from a cluster names it.
    if not model or model.get("runtime") not in {None, "", serving.name} or predictor.get("workerSpec"):
        return None
    wanted = str((model.get("modelFormat") or {}).get("name", "")).lower()
    if found.runtimes is None:
        setting.notes.append(f"KServe chooses its runtime: which there are may not be listed; {REMEDY}")
        return None
    if not lacks_runtime(serving, found):
        return None
    container = plain.engine_container(serving, setting, model=MODELS)
    given = len(serving.engine_args)
    container["args"] = container["args"][: len(container["args"]) - given] if given else container["args"]
    container["name"] = "kserve-container"
    container.pop("env")
    if not serving.resources.num_gpus:
        container["env"] = [{"name": name, "value": value} for name, value in cpu.variables(serving).items()]
        setting.notes.append(cpu.note(serving))
    pod: Object = {"containers": [container]}
    plain.complete(replace(serving, model_cache=""), setting, pod)
    pod.pop("terminationGracePeriodSeconds", None)
    pod.pop("tolerations", None)
    model["runtime"] = serving.name
    setting.notes.append(f"no runtime of the cluster serves {wanted}: ServingRuntime {serving.name} runs vLLM")
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": {"name": serving.name, "namespace": serving.namespace, "labels": dict(labels)},
        "spec": {
            "supportedModelFormats": [{"name": model["modelFormat"]["name"], "version": "1"}],
            "multiModel": False,
            **pod,
        },
    }


def _complete(serving: Serving, setting: Setting, predictor: Object) -> None:
    """What manifests forget. A runtime's own container stays as its author wrote it: of a model's pod only what no
    runtime knows is said here."""
    if serving.model_cache and not predictor.get("containers"):
        setting.notes.append("model-cache is not honoured: KServe itself fetches the model, at each start")
    if predictor.get("containers"):
        plain.complete(serving, setting, predictor)
        return
    plain.tolerate(serving, setting, predictor)
    predictor.setdefault("terminationGracePeriodSeconds", int(serving.timeout_s) + plain.LEAVE_S)
    implementation = predictor.get("model")
    if implementation is not None:
        plain.give_token(setting, implementation)
