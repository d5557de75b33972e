"""The language models of a RayService: whether its workers have the GPUs, and vLLM the arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from ironloom.check import look
from ironloom.check.fields import PLACEHOLDER
from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules.engine_parallel import undivided
from ironloom.errors import ManifestError
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.engine_options import options_of
from ironloom.workload.manifests.inner import outer_place, place_in
from ironloom.workload.manifests.schema import Path
from ironloom.workload.ray_serve import CONFIG, RayModel, config_of, models_of, root_of
from ironloom.workload.workload import PodSet, Workload

CONFIGURATION = Source(
    "https://docs.ray.io/en/latest/serve/llm/user-guides/configuration.html",
    "engine_kwargs, placement and deployment_config of an LLMConfig",
)


def _service(config: str, gpus: int = 8) -> str:
    return f"""\
apiVersion: ray.io/v1
kind: RayService
metadata:
  name: qwen
spec:
  serveConfigV2: |
    applications:
    - name: llm
      import_path: ray.serve.llm:build_openai_app
      route_prefix: "/"
      args:
        llm_configs:
        - model_loading_config:
            model_id: qwen
            model_source: Qwen/Qwen3-32B
{config}  rayClusterConfig:
    headGroupSpec:
      rayStartParams: {{}}
      template:
        spec:
          containers:
          - name: head
            image: rayproject/ray-llm:2.52.0-py311-cu128
            resources:
              limits: {{cpu: "4", memory: 16Gi}}
    workerGroupSpecs:
    - groupName: gpus
      replicas: 1
      minReplicas: 1
      maxReplicas: 1
      rayStartParams: {{}}
      template:
        spec:
          containers:
          - name: worker
            image: rayproject/ray-llm:2.52.0-py311-cu128
            resources:
              limits: {{nvidia.com/gpu: "{gpus}"}}
"""


def _engine(**arguments: object) -> str:
    lines = "".join(f"            {name}: {value}\n" for name, value in arguments.items())
    return f"          engine_kwargs:\n{lines}"


def _models(document: Document) -> list[RayModel]:
    """The models of a RayService; none where its text is no YAML, which IL432 tells."""
    try:
        return list(models_of(config_of(document)))
    except ManifestError:
        return []


def _told(document: Document, path: Path, message: str, *, at_key: bool = False, **more: Any) -> Problem:
    """A problem of a part of the text, on the line where that stands; at the text's key where lines are not kept."""
    made = problem(document, CONFIG, message, at_key=True, **more)
    root = root_of(document)
    if root is None:
        return made
    inner = place_in(root, path, at_key=at_key)
    place = outer_place(document, CONFIG, inner.line, inner.column, inner.end - inner.start)
    return replace(made, place=place) if place is not None else made


@rule(
    id="IL432",
    name="serve-config-unreadable",
    family="engine",
    severity=Severity.ERROR,
    subject=Document,
    summary="a serveConfigV2 that is no YAML, or has no application",
    why="serveConfigV2 is YAML inside a text of the manifest, so that no schema looks into it. KubeRay makes the "
    "cluster, GPUs and all, before it finds that there is nothing to serve.",
    bad=_service("").replace("import_path: ray.serve.llm:build_openai_app", "import_path: [ray.serve.llm"),
    good=_service(""),
    sources=(
        Source("https://docs.ray.io/en/latest/serve/production-guide/config.html", "what the config has"),
        Source("https://github.com/ray-project/kuberay/blob/master/ray-operator/apis/ray/v1/rayservice_types.go", "V2"),
    ),
)
def serve_config_unreadable(document: Document, _context: Context) -> Iterator[Problem]:
    text = look.text(document.obj, CONFIG)
    if document.kind != "RayService" or not text.strip() or PLACEHOLDER.search(text):
        return
    try:
        config = config_of(document)
    except ManifestError as error:
        message = f"serveConfigV2 is no YAML: {error.message}"
        evidence = (f"line {error.line} of the text",) if error.line else ()
        made = problem(document, CONFIG, message, at_key=True, evidence=evidence)
        place = outer_place(document, CONFIG, error.line or 0, error.column or 1)
        yield replace(made, place=place) if place is not None else made
        return
    if not isinstance(config, Mapping):
        yield problem(document, CONFIG, "serveConfigV2 has no applications: nothing is served", at_key=True)
    elif not look.entries(config, ("applications",)):
        yield _told(document, ("applications",), "serveConfigV2 has no applications: nothing is served", at_key=True)


@rule(
    id="IL433",
    name="ray-engine-argument-unknown",
    family="engine",
    severity=Severity.ERROR,
    subject=Document,
    summary="an argument in engine_kwargs that vLLM does not have",
    why="ray.serve.llm hands engine_kwargs to vLLM's AsyncEngineArgs by name. With one that is misspelt the replica "
    "fails at each start, and Ray Serve tries again for ever while the GPUs are held.",
    bad=_service(_engine(tensor_paralel_size=8)),
    good=_service(_engine(tensor_parallel_size=8)),
    sources=(CONFIGURATION, Source("https://docs.vllm.ai/en/latest/configuration/engine_args.html", "the arguments")),
)
def ray_engine_argument_unknown(document: Document, _context: Context) -> Iterator[Problem]:
    if document.kind != "RayService":
        return
    known = options_of("vllm")
    for model in _models(document):
        for name in model.engine:
            written = f"--{name.replace('_', '-')}"
            near = known.nearest(written) if written not in known.by_name else None
            # What is near no option may be a field of the engine that its command line does not have.
            if near is not None:
                yield _told(
                    document,
                    (*model.path, "engine_kwargs", name),
                    f"engine_kwargs of {model.name} has {name}, which vLLM does not have",
                    at_key=True,
                    help=f"did you mean {near.removeprefix('--').replace('-', '_')}?",
                    confidence=Confidence.LIKELY,
                )


@rule(
    id="IL434",
    name="ray-model-larger-than-its-workers",
    family="engine",
    severity=Severity.ERROR,
    subject=Workload,
    summary="models of a RayService that want more GPUs than its workers can have",
    why="Each replica of a model takes tensor parallel times pipeline parallel GPUs of the Ray cluster. Where the "
    "worker groups, grown to their most, have fewer, the replica waits as PENDING_CREATION and nothing says which "
    "number is wrong.",
    bad=_service(_engine(tensor_parallel_size=8), gpus=4),
    good=_service(_engine(tensor_parallel_size=4), gpus=4),
    sources=(
        CONFIGURATION,
        Source(
            "https://github.com/ray-project/kuberay/tree/master/ray-operator/config/samples", "8 × 2 on two workers"
        ),
    ),
)
def ray_model_larger_than_its_workers(workload: Workload, _context: Context) -> Iterator[Problem]:
    if workload.kind != "RayService":
        return
    models = [one for one in _models(workload.document) if not one.has_placement]
    groups = [(one, _most(workload, one)) for one in workload.pod_sets if one.gpus()[1]]
    room = sum(pod_set.gpus()[1] * number for pod_set, number in groups)
    wanted = sum(model.num_gpus * model.least_replicas for model in models)
    if not models or not groups:
        return  # a cluster without GPUs may serve on CPUs, or get its devices otherwise
    parts = [
        f"{one.name}: {one.least_replicas} × {one.size('tensor_parallel_size')} × {one.size('pipeline_parallel_size')}"
        for one in models
    ]
    workers = [f"{number} × {pod_set.gpus()[1]} in {pod_set.name}" for pod_set, number in groups]
    if wanted > room:
        largest = max(models, key=lambda one: one.num_gpus * one.least_replicas)
        yield _told(
            workload.document,
            (*largest.path, "engine_kwargs", "tensor_parallel_size"),
            f"the models want {wanted} GPUs, and the workers have at most {room}",
            evidence=(
                f"replicas × tensor parallel × pipeline parallel: {', '.join(parts)}",
                f"GPUs: {', '.join(workers)}",
            ),
            confidence=Confidence.LIKELY,
        )
        return
    most = max(pod_set.gpus()[1] for pod_set, _ in groups)
    for model in models:
        size = model.size("tensor_parallel_size")
        if size > most:
            yield _told(
                workload.document,
                (*model.path, "engine_kwargs", "tensor_parallel_size"),
                f"{model.name} is split over {size} GPUs, and no worker has more than {most}: each layer's sums cross "
                "the network",
                evidence=(f"tensor_parallel_size {size} > {most}",),
                help=f"tensor_parallel_size: {most}, and pipeline_parallel_size: {-(-size // most)}",
                severity=Severity.WARNING,
                confidence=Confidence.LIKELY,
            )


def _most(workload: Workload, pod_set: PodSet) -> int:
    """Pods of a set when its group has grown to its most."""
    group = pod_set.path[:-2]  # of the template's spec
    hosts = look.integer(workload.document.obj, (*group, "numOfHosts")) or 1
    return max(pod_set.num_pods, (look.integer(workload.document.obj, (*group, "maxReplicas")) or 0) * max(1, hosts))


@rule(
    id="IL435",
    name="ray-heads-do-not-divide",
    family="engine",
    severity=Severity.ERROR,
    subject=Document,
    summary="a tensor_parallel_size in serveConfigV2 that the model's heads do not divide by",
    why="vLLM gives each GPU the same number of attention heads and stops where they do not divide. In a RayService "
    "that is found when the cluster stands and the weights are fetched.",
    bad=_service(_engine(tensor_parallel_size=6)),
    good=_service(_engine(tensor_parallel_size=8)),
    sources=(CONFIGURATION, Source("https://github.com/vllm-project/vllm/issues/5450", "heads must divide")),
)
def ray_heads_do_not_divide(document: Document, context: Context) -> Iterator[Problem]:
    if document.kind != "RayService":
        return
    for model in _models(document):
        shape = context.shapes(model.model) if model.model else None
        size = model.size("tensor_parallel_size")
        why = undivided(shape, size) if shape is not None and size > 1 else ""
        if shape is not None and why:
            fitting = [str(number) for number in range(1, 17) if not undivided(shape, number)]
            yield _told(
                document,
                (*model.path, "engine_kwargs", "tensor_parallel_size"),
                f"tensor_parallel_size {size} does not divide {why} of {shape.name}",
                help=f"{', '.join(fitting)} do",
            )


@rule(
    id="IL525",
    name="ray-replicas-contradict",
    family="autoscaling",
    severity=Severity.ERROR,
    subject=Document,
    summary="a model of a RayService with more least than most replicas, or with a fixed number beside autoscaling",
    why="Ray Serve checks the bounds when the application is deployed, which is when the cluster already stands: "
    "min_replicas may not be above max_replicas, and num_replicas is a number or auto where autoscaling_config is set.",
    bad=_service(
        "          deployment_config:\n            autoscaling_config:\n"
        "              min_replicas: 4\n              max_replicas: 2\n"
    ),
    good=_service(
        "          deployment_config:\n            autoscaling_config:\n"
        "              min_replicas: 1\n              max_replicas: 2\n"
    ),
    sources=(
        Source("https://docs.ray.io/en/latest/serve/autoscaling-guide.html", "the bounds, and num_replicas: auto"),
        CONFIGURATION,
    ),
)
def ray_replicas_contradict(document: Document, _context: Context) -> Iterator[Problem]:
    if document.kind != "RayService":
        return
    for model in _models(document):
        scaling = look.mapping(model.deployment, ("autoscaling_config",))
        scaling_path = (*model.path, "deployment_config", "autoscaling_config")
        low, high = look.integer(scaling, ("min_replicas",)), look.integer(scaling, ("max_replicas",))
        if low is not None and high is not None and low > high:
            message = f"min_replicas {low} of {model.name} is above max_replicas {high}"
            yield _told(document, (*scaling_path, "min_replicas"), message)
        fixed = look.integer(model.deployment, ("num_replicas",))
        if scaling and fixed is not None:
            yield _told(
                document,
                (*model.path, "deployment_config", "num_replicas"),
                f"{model.name} has num_replicas {fixed} and autoscaling_config: Ray Serve takes one of them",
                help="leave num_replicas out, or write auto",
            )
