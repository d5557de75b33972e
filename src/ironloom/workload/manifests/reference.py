"""docs/reference/manifests.md, from the tables that the code reads."""

from __future__ import annotations

from ironloom.workload.manifests import bounds, inference_service, llm_inference_service, nodes, schema
from ironloom.workload.manifests.arguments import UNCHECKED
from ironloom.workload.manifests.engine_args import understood_options
from ironloom.workload.manifests.engine_options import sources
from ironloom.workload.manifests.files import SUFFIXES
from ironloom.workload.manifests.kserve_words import FORMATS
from ironloom.workload.manifests.pods import CONTAINER_FIELDS, ENV_NOT_PASSED, POD_FIELDS
from ironloom.workload.manifests.read import KINDS, TRAINING_KINDS

_INTRODUCTION = """# Manifests

A workload is a standard Kubernetes object. Ironloom reads it from files, from folders (every
{suffixes} below, in order of name) and from standard input (`-`). Several documents a file and
`kind: List` are fine. YAML is read as kubectl reads it; JSON is YAML.

Every field is checked: one that the kind does not have, or of the wrong type, is an error with file, line, column and
the nearest known name. All problems of all files are told at once, and nothing is changed.

A field that is valid and that one machine cannot honour is a note: told once, by name, with its place. An object that
is no workload (ConfigMap, Secret, Namespace, …) is named and skipped.

Bounds: {bytes} MiB and {values:,} values a file, {line} MiB a line, {entries:,} entries a list or mapping, {depth}
levels deep, {aliased:,} nodes with aliases written out. What is larger is refused with a sentence. A key that stands
twice is an error.
"""
_INFERENCE_SERVICE = """## InferenceService

| field of `spec.predictor` | meaning here |
|---|---|
| `model.modelFormat.name` | one of {formats} |
| `model.storageUri` | the model: `hf://owner/name[:revision]`, `file://`, a path, `s3://`, `pvc://claim/folder` |
| `model.storage.path`, `.parameters` | the same as `type://bucket/path` |
| `model.args` | the server's options, vLLM's or the Hugging Face server's |
| `model.runtime` | {runtimes}: any engine stands for them; another is a note |
| `model.env`, `.resources` | environment; devices, CPU and memory of one replica |
| `containers[]` | the one that runs vLLM or the Hugging Face server, by its command, its script or its image's name |
| `minReplicas` | 1 if not said; 0 goes to zero |
| `maxReplicas` | 0 or not said: as many as fit |
| `scaleMetric`, `scaleTarget` | `concurrency` or `rps`, and its target; `cpu` and `memory` are a note |
| `containerConcurrency` | most requests in one replica at once |
| `timeout` | seconds that a request may take, waiting included; 300 if not said |

`scaleTarget` without `scaleMetric` is CPU in deployment mode Standard (RawDeployment), and a note, unless the
autoscaler class is `external` or `none`; else concurrency.
Other frameworks (sklearn, tensorflow, …) are refused. `transformer` and `explainer` are notes.
"""
_LLM_INFERENCE_SERVICE = """## LLMInferenceService

| field of `spec` | meaning here |
|---|---|
| `model.uri` | where the model is |
| `model.name` | told when it is not metadata.name, which is the model id here |
| `replicas` | a fixed count; 0 is at zero until a request |
| `scaling.minReplicas`, `.maxReplicas` | bounds of the autoscaler |
| `scaling.keda.idleReplicaCount: 0` | goes to zero; `cooldownPeriod` (300 s) is the retention |
| `parallelism.tensor`, `.pipeline`, `.expert` | the engine's options of that name |
| `template.containers[name=main]` | args, env (`VLLM_ADDITIONAL_ARGS` too), resources, a command that runs vLLM |
"""
_DEPLOYMENT = """## Deployment

One whose container runs vLLM or the Hugging Face server: by `vllm serve`, `python -m
vllm.entrypoints.openai.api_server`, `python -m huggingfaceserver`, in `command`, `args` or a shell script, or by the
image's name. `replicas` is a fixed count unless an annotation gives min or max scale. `progressDeadlineSeconds` is the
start's deadline. A Service that selects its pods belongs to it; its port is the gateway's here.

## LeaderWorkerSet

One whose leader (its worker, where no leader is written) runs such a server. A group is a replica; `replicas` is a
fixed count unless an annotation gives min or max scale.

## TrainJob, JobSet, PyTorchJob

One whose container runs `ironloom.train.run`, by torchrun or python, in `command`, `args` or a shell's `-c`. Its
arguments are the [settings](training.md) of the run; each wrong one is told at its place. `metadata.name` is the run's
name.

| field | meaning here |
|---|---|
| TrainJob `spec.trainer.numNodes` × `numProcPerNode` | the number of ranks; all run on this machine |
| TrainJob `spec.trainer.resourcesPerNode` | GPUs and memory of a node's ranks together |
| JobSet `replicas` × `parallelism` × torchrun's `--nproc-per-node` | the number of ranks |
| JobSet `spec.failurePolicy.maxRestarts` | `max_restarts` |
| PyTorchJob `replicas` of Master and Worker × `nprocPerNode` | the number of ranks |
| PyTorchJob `spec.elasticPolicy` | `is_elastic`, the least ranks, `max_restarts` |
| `suspend` | take a checkpoint and end; applied without it, go on |

Other jobs and containers beside it, selectors, policies of clean-up and initializers are notes.

## The model of a command line

`--model owner/name` is `hf://owner/name`, with `--revision` after a colon. A folder on a mounted claim is
`pvc://claim/folder`, one on a hostPath is that path of this machine.
"""


def reference_page() -> str:
    """The page's text."""
    table = schema.load()
    rows = [
        _INTRODUCTION.format(
            suffixes=", ".join(f"`*{suffix}`" for suffix in sorted(SUFFIXES)),
            bytes=bounds.MAX_BYTES // 2**20,
            values=bounds.MAX_VALUES,
            line=bounds.MAX_LINE // 2**20,
            entries=bounds.MAX_ENTRIES,
            depth=nodes.MAX_DEPTH,
            aliased=nodes.MAX_ALIASED_NODES,
        ),
        "## Kinds",
        "",
        "| apiVersion | kind | fields as in |",
        "|---|---|---|",
    ]
    for name in (*KINDS, "v1/Service"):
        version, _, kind = name.rpartition("/")
        of = table if name in table.kinds else schema.load_all()
        rows.append(f"| `{version}` | {kind} | {of.source(version)} |")
    for name in TRAINING_KINDS:
        version, _, kind = name.rpartition("/")
        rows.append(f"| `{version}` | {kind} | {schema.load_all().source(version)} |")
    runtimes = ", ".join(f"`{name}`" for name in inference_service.RUNTIMES)
    formats = ", ".join(f"`{name}`" for name in FORMATS)
    rows += ["", _INFERENCE_SERVICE.format(runtimes=runtimes, formats=formats), _LLM_INFERENCE_SERVICE, _DEPLOYMENT]
    taken, dropped = understood_options()
    rows += ["Understood, and set by Ironloom: " + ", ".join(f"`{name}`" for name in taken) + ".", ""]
    rows += ["| option that is left out | why |", "|---|---|"]
    rows += [f"| `{name}` | {why} |" for name, why in dropped]
    rows += ["", *_options()]
    rows += ["", "## Notes: valid, and not honoured on one machine", "", "| field | why |", "|---|---|"]
    for kind, fields in (
        ("InferenceService", inference_service.NOT_HONOURED),
        ("LLMInferenceService", llm_inference_service.NOT_HONOURED),
    ):
        rows += [f"| {kind} `{name}` | {why} |" for name, why in fields.items()]
    rows += [f"| pod `{name}` | {why} |" for name, why in POD_FIELDS.items() if why is not None]
    rows += [f"| container `{name}` | {why} |" for name, why in CONTAINER_FIELDS.items()]
    rows += [f"| env `{name}` | {why} |" for name, why in ENV_NOT_PASSED.items()]
    rows += ["| env with `valueFrom`, `envFrom` | there are no Secrets and ConfigMaps here; set it for the daemon |"]
    rows += ["| containers beside the engine's | only the engine runs here |"]
    rows += ["| volumes | nothing is mounted; empty ones need nothing, and one with the model leads to it |"]
    silent = ", ".join(f"`{name}`" for name, why in POD_FIELDS.items() if why is None and name not in _READ)
    rows += ["", f"Done in Ironloom's own way, and not told: probes, ports, image pull policy, {silent}."]
    return "\n".join(rows) + "\n"


def _options() -> list[str]:
    """What is checked of the arguments that go to the engine."""
    told = [f"`{command}` {version}" for command, version, _ in sources("vllm", "huggingfaceserver")]
    rows = [
        "All others go to the engine, which says what it ignores. Their names and values are checked before anything"
    ]
    rows += [f"is applied, against the options of {' and '.join(told)}, and of Ironloom's own engines:"]
    rows += [
        "a name that there is not, a value outside the choices, no whole number where one is wanted. They are read"
    ]
    rows += [
        "as vLLM reads them: `_` for `-`, `--no-…`, `--config.key value`, `-O3`, `-tp 2`, and the beginning of a name"
    ]
    rows += ["that no other begins with. Options that only earlier versions of vLLM had are known by name."]
    rows += ["", f"The annotation `{UNCHECKED}` names arguments that are to be taken as they stand: those of a newer"]
    rows += ["version. A service with the annotation `ironloom.dev/engine: fake` is not checked."]
    return rows


_READ = frozenset({"containers", "volumes", "resources"})
