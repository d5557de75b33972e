"""What stands around a server: its port, its key, the model that it fetches and where that stays."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ironloom.check import look
from ironloom.check.engines import Engine, engines
from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules.memory import cache_folder, volume_at
from ironloom.check.rules.secrets import plain_secrets
from ironloom.check.rules.serving_examples import serving
from ironloom.plan.weights import checkpoint_bytes
from ironloom.units import GB, format_bytes
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import Workload

PORTS = {"vllm": 8000, "sglang": 30_000, "trtllm": 8000}
"""Where a server listens that is not told. TGI's is its image's, KServe's is behind KServe."""
PROBES = ("readinessProbe", "livenessProbe", "startupProbe")
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "HF_API_TOKEN", "HUGGINGFACE_TOKEN")
ELSEWHERE = ("HF_ENDPOINT", "HF_HUB_OFFLINE", "VLLM_USE_MODELSCOPE", "SGLANG_USE_MODELSCOPE", "HF_TOKEN_PATH")
"""Variables with which a model is not fetched from the hub, or with a token that is elsewhere."""
GATED = re.compile(
    r"(meta-llama/|google/(gemma-(2b|7b|1\.1|2-|3-)|codegemma|paligemma|recurrentgemma)|CohereLabs/c4ai-command"
    r"|CohereForAI/c4ai-command)",
    re.IGNORECASE,
)
"""Repositories that the hub gives only to accounts which accepted a licence."""
_BESIDE = re.compile(r"&\s*(\n|$)|\bnginx\b|\bproxy\b|\bsocat\b")
"""In a script: something runs beside the server, and may be what is asked."""
LARGE = 40 * GB
_MODEL = "--model=meta-llama/Llama-3.1-8B-Instruct"
_SERVICE = """\
---
apiVersion: v1
kind: Service
metadata:
  name: llama
spec:
  selector:
    app: llama
  ports:
  - port: 80
    targetPort: {port}
"""


@rule(
    id="IL421",
    name="key-in-the-arguments",
    family="engine",
    severity=Severity.WARNING,
    subject=Workload,
    summary="an API key written into a server's arguments",
    why="Arguments are seen by all who may read the object, its history in git, the process list of the node and crash "
    "reports. A key in a Secret reaches the server as the variable VLLM_API_KEY, or through `$(NAME)`.",
    bad=serving("--model=Qwen/Qwen3-8B", "--api-key=team-7f3a"),
    good=serving(
        "--model=Qwen/Qwen3-8B",
        "--api-key=$(API_KEY)",
        token=False,
        container="env:\n- name: API_KEY\n  valueFrom:\n    secretKeyRef:\n      name: keys\n      key: llama\n",
    ),
    sources=(
        Source("https://docs.vllm.ai/en/latest/configuration/env_vars.html", "VLLM_API_KEY"),
        Source("https://kubernetes.io/docs/concepts/security/secrets-good-practices/", "secrets stay out of manifests"),
    ),
)
def key_in_the_arguments(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        # What is a secret for sure is told as one, by the rule of secrets.
        told = {path for path, _, _ in plain_secrets(engine.container)} if engine.pod_set.is_written else set()
        for name in ("--api-key", "--hf-token"):
            option = engine.launch.option(name)
            if option is not None and option.path in told:
                continue
            if option is None or not option.value or "$" in option.value or "{{" in option.value:
                continue
            if option.value.lower() in {"none", "empty", "dummy", "token-abc123", "abc123", "sk-xxx"}:
                continue
            yield engine.option_problem(
                option,
                f"the value of {name} is readable by all who may read this object",
                help="put it in a Secret, and write `$(NAME)` of a variable that takes it from there",
            )


@rule(
    id="IL422",
    name="port-that-nobody-listens-on",
    family="engine",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a probe or a Service for another port than the server's",
    why="A probe of a port that nothing listens on never succeeds, and the pod is killed or never ready; a Service "
    "whose targetPort is another than the server's answers with a refused connection. The server listens where --port "
    "says, whatever containerPort says.",
    bad=serving(
        "--model=Qwen/Qwen3-8B",
        "--port=8080",
        container="readinessProbe:\n  httpGet:\n    path: /health\n    port: 8000\n",
    ),
    good=serving(
        "--model=Qwen/Qwen3-8B",
        "--port=8080",
        container="readinessProbe:\n  httpGet:\n    path: /health\n    port: 8080\n",
    )
    + _SERVICE.format(port=8080),
    sources=(
        Source(
            "https://kubernetes.io/docs/concepts/services-networking/service/#field-spec-ports",
            "targetPort is the port of the pod",
        ),
        Source("https://docs.vllm.ai/en/latest/configuration/engine_args.html", "--port, 8000 where it is not given"),
    ),
)
def port_that_nobody_listens_on(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        port = _port(engine)
        if port is None:
            continue
        spec = engine.container.spec
        for probe in PROBES:
            for how in ("httpGet", "tcpSocket"):
                path: Path = (probe, how, "port")
                asked = _resolved(look.at(spec, path), spec)
                if asked is not None and asked != port:
                    yield problem(
                        workload.document,
                        (*engine.container.path, *path),
                        f"the {probe} asks port {asked}, and the server listens on {port}",
                        evidence=(_why(engine, port),),
                        help=f"write {port}, or start the server with --port {asked}",
                    )
        mains = [one for one in engine.pod_set.containers if not one.is_init or one.is_sidecar]
        if len(mains) != 1:
            continue
        for document, where, asked in _targets(engine, context):
            if asked != port:
                yield problem(
                    document,
                    where,
                    f"the Service {document.name} sends to port {asked} of {workload.kind} {workload.name}, "
                    f"whose server listens on {port}",
                    evidence=(_why(engine, port),),
                    help=f"write targetPort: {port}",
                )


@rule(
    id="IL423",
    name="gated-model-in-a-pod-without-token",
    family="engine",
    severity=Severity.WARNING,
    subject=Workload,
    summary="a gated model, and no token to fetch it with",
    why="The hub gives Llama's and Gemma's files only to accounts that accepted their licence. Without a token the "
    "download ends with 401 `Cannot access gated repo`, and the container restarts for ever.",
    bad=serving(_MODEL, token=False),
    good=serving(_MODEL),
    sources=(
        Source("https://huggingface.co/docs/hub/models-gated", "what gated models are"),
        Source("https://github.com/opea-project/GenAIInfra/issues/100", "401 for meta-llama in a pod"),
        Source("https://github.com/awslabs/data-on-eks/issues/605", "`You are trying to access a gated repo`"),
    ),
)
def gated_model_without_token(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        model = engine.launch.model.removeprefix("hf://")
        if not GATED.match(model) or not _is_fetched(engine) or engine.launch.option("--hf-token") is not None:
            continue
        names = set(engine.container.env)
        if names & {*TOKENS, *ELSEWHERE} or engine.container.spec.get("envFrom") or _keeps(engine):
            continue
        if any("TOKEN" in name or name.startswith("HF_") for name in names - {"HF_HUB_ENABLE_HF_TRANSFER", "HF_HOME"}):
            continue
        yield engine.model_problem(
            f"{model} is gated, and the container has no token of the hub",
            confidence=Confidence.LIKELY,
            help="set HF_TOKEN from a Secret, of an account that accepted the licence",
        )


@rule(
    id="IL424",
    name="model-fetched-at-each-start",
    family="engine",
    severity=Severity.NOTE,
    subject=Workload,
    summary="a large model that each new pod downloads anew",
    why="Nothing outlives the pod: each start, each restart on another node and each new replica fetches all files "
    "again, while its GPUs are taken and billed. At 1 GB/s 140 GB are two and a half minutes; many replicas at once "
    "share the line, and the hub limits how much an address may fetch.",
    bad=serving("--model=Qwen/Qwen2.5-72B-Instruct", "--tensor-parallel-size=4", gpus=4),
    good=serving(
        "--model=Qwen/Qwen2.5-72B-Instruct",
        "--tensor-parallel-size=4",
        gpus=4,
        container="volumeMounts:\n- name: cache\n  mountPath: /root/.cache/huggingface\n",
        pod="volumes:\n- name: cache\n  persistentVolumeClaim:\n    claimName: models\n",
    ),
    sources=(
        Source(
            "https://huggingface.co/docs/huggingface_hub/guides/manage-cache",
            "the cache is a folder, which must outlive the pod",
        ),
        Source("https://docs.vllm.ai/en/latest/deployment/k8s.html", "vLLM's own manifest keeps it on a claim"),
    ),
)
def model_fetched_at_each_start(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        shape = engine.shape
        if shape is None or workload.kind in {"Job", "CronJob"} or not _is_fetched(engine) or _keeps(engine):
            continue
        size = checkpoint_bytes(shape)
        if size >= LARGE and cache_folder(engine):
            yield engine.model_problem(
                f"each new pod downloads {format_bytes(size)} before it answers, and nothing keeps them",
                help=f"mount a claim at {cache_folder(engine).removesuffix('/hub')}",
            )


def fetched_bytes(engine: Engine) -> int:
    """What a new pod downloads from the hub before its engine can load; 0 where nothing, or where that is not known."""
    if engine.shape is None or not _is_fetched(engine) or _keeps(engine):
        return 0
    return checkpoint_bytes(engine.shape)


def _port(engine: Engine) -> int | None:
    """Where the server listens; None where that cannot be told."""
    if engine.has_config_file or not engine.pod_set.is_written or engine.launch.option("--uds") is not None:
        return None
    if engine.is_on("--headless") or engine.program not in PORTS or _BESIDE.search(engine.text):
        return None
    if engine.launch.option("--port") is None:
        is_plain = engine.container.launch is engine.launch and engine.program == "vllm"
        return PORTS[engine.program] if is_plain or engine.program == "sglang" else None
    return engine.number("--port")


def _why(engine: Engine, port: int) -> str:
    given = engine.launch.option("--port")
    return f"--port {port}" if given is not None else f"no --port: {engine.program}'s own is {port}"


def _resolved(port: object, container: Mapping[str, Any]) -> int | None:
    """A port as a number; a name as the containerPort of that name says."""
    if isinstance(port, bool) or port is None:
        return None
    if isinstance(port, int):
        return port
    for one in look.entries(container, ("ports",)):
        if look.text(one, ("name",)) == port:
            return look.integer(one, ("containerPort",))
    return int(port) if isinstance(port, str) and port.isdecimal() else None


def _targets(engine: Engine, context: Context) -> Iterator[tuple[Document, Path, int]]:
    """The ports that Services of this run send to on these pods, where the Service has one port alone."""
    if "services that select" not in context.memo:
        services = [document for document in context.documents if document.kind == "Service"]
        selecting = [(one, look.mapping(one.obj, ("spec", "selector"))) for one in services]
        by_label: dict[tuple[str, object], list[tuple[Document, Mapping[str, Any]]]] = {}
        for one, selector in selecting:
            if selector and all(isinstance(value, str) for value in selector.values()):
                by_label.setdefault(next(iter(selector.items())), []).append((one, selector))
        context.memo["services that select"] = by_label
    labels = engine.pod_set.labels
    maybe = [found for item in labels.items() for found in context.memo["services that select"].get(item, ())]
    for document, selector in maybe:
        if not selector.items() <= labels.items():
            continue
        namespace = look.text(document.obj, ("metadata", "namespace"))
        if namespace and engine.workload.namespace and namespace != engine.workload.namespace:
            continue
        ports = look.entries(document.obj, ("spec", "ports"))
        if len(ports) != 1 or look.text(document.obj, ("spec", "clusterIP")) == "None":
            continue  # a headless Service names pods, and its ports send nothing
        key = "targetPort" if look.at(ports[0], ("targetPort",)) is not None else "port"
        asked = _resolved(look.at(ports[0], (key,)), engine.container.spec)
        if asked is not None:
            yield document, ("spec", "ports", 0, key), asked


def _is_fetched(engine: Engine) -> bool:
    """Whether the container itself fetches its model from the hub."""
    return bool(cache_folder(engine)) and re.fullmatch(r"[\w.-]+/[\w.-]+", engine.launch.model) is not None


def _keeps(engine: Engine) -> bool:
    """Whether what is fetched outlives the pod, or may already be there."""
    found = volume_at(engine, cache_folder(engine))
    if found is None:
        return False
    _, volume = found
    return "emptyDir" not in volume and "ephemeral" not in volume
