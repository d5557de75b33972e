"""What rules of engines and of their memory ask again and again: which servers a workload runs, on how many GPUs of
which kind, with which model, and how much memory that leaves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import msgspec
from msgspec.structs import replace

from ironloom.catalog import accelerators, instances
from ironloom.catalog.accelerators import Accelerator
from ironloom.check import look
from ironloom.check.rule import Context, Problem, problem
from ironloom.plan.memory import Budgeting, ServingMemory, serving_memory
from ironloom.workload.launch import place_of
from ironloom.workload.manifests.engine_options import Match, Options, Release, options_of, release_of
from ironloom.workload.manifests.engine_options import Option as Known
from ironloom.workload.manifests.schema import Path
from ironloom.workload.shapes.model import ModelShape
from ironloom.workload.shapes.quantization import named
from ironloom.workload.workload import Container, Launch, Option, PodSet, Workload

VLLM_LIKE = frozenset({"vllm", "huggingfaceserver"})
"""Programs that run vLLM with vLLM's options."""
TABLES = frozenset({*VLLM_LIKE, "sglang", "trtllm"})
"""Programs whose options are known by name."""
EXACT = frozenset({"sglang", "trtllm"})
"""Programs that tell `_` from `-` in names: argparse and click as they come."""
TITLES = {"vllm": "vLLM", "huggingfaceserver": "vLLM", "sglang": "SGLang", "trtllm": "TensorRT-LLM"}
SERVERS = TABLES | {"tgi"}
_VERSION = re.compile(r"(?:^|[^0-9.])v?(\d+)\.(\d+)(?:\.(\d+))?")
_OFFICIAL = re.compile(r"(^|/)vllm/vllm-openai(-[a-z0-9]+)*$|^([^/]*[.:][^/]*/)?vllm-openai(-[a-z0-9]+)*$")
"""Images whose tag is vLLM's own version: vllm/vllm-openai, and its copies in other registries with or without its
owner. Another owner's has a version of its own: lmcache/vllm-openai has LMCache's."""
_RELEASES = {
    "vllm": _OFFICIAL,
    "sglang": re.compile(r"(^|/)(lmsysorg|sglang)/sglang$"),
    "trtllm": re.compile(r"(^|/)nvidia/tensorrt-llm/release$"),
}
"""Images whose tag is the version of the program."""
_GPU_LABELS = (
    "gpu.nvidia.com/class",
    "gpu.nvidia.com/model",
    "nvidia.com/gpu.product",
    "amd.com/gpu.product-name",
    "cloud.google.com/gke-accelerator",
    "skypilot.co/accelerator",
)
_INSTANCE_LABELS = ("node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type", "node.coreweave.cloud/type")
_BUDGETS = {"sglang": Budgeting.SGLANG, "trtllm": Budgeting.TRTLLM}
_FRACTIONS = ("--mem-fraction-static", "--kv-cache-free-gpu-memory-fraction", "--free-gpu-memory-fraction")
_BEYOND = (
    "--cpu-offload-",
    "--kv-cache-memory-bytes",
    "--num-gpu-blocks-override",
    "--kv-offloading-size",
    "--speculative-",
    "--enable-lora",
    "--hf-overrides",
    "--decode-context-parallel-size",
    "--prefill-context-parallel-size",
    "--load-format",
    "--omni",
    # SGLang's
    "--max-total-tokens",
    "--lora-paths",
    "--enable-dp-",
    "--attn-",
    "--json-model-override-args",
    "--moe-dense-tp-size",
    "--offload-",
    "--enable-multimodal",
    "--torchao-config",
    # TensorRT-LLM's
    "--enable-attention-dp",
    "--context-parallel-size",
    "--cp-size",
)
"""How options begin that reach beyond what is modelled."""
_PARALLEL = ("--tensor-parallel-", "--pipeline-parallel-", "--data-parallel-", "--tp-", "--pp-", "--dp-")
_SIZES = (*_PARALLEL, "--max-model-len", "--context-length", "--gpu-memory-", "--mem-fraction-", "--kv-cache-dtype")
"""How options begin that say on how many GPUs an engine runs, and of what size it is."""
_WHOLE_GPUS = ("nvidia.com/gpu", "amd.com/gpu")
NEWER_DEFAULT = (0, 20)
"""vLLM's gpu_memory_utilization is 0.92 from here on, 0.9 before (vllm/config/cache.py)."""
SEVERAL_NODES = frozenset({"--nnodes", "--node-rank", "--headless", "--dist-init-addr", "--master-addr"})
"""Options of a server that is one part of several."""
OWN_RANKS = frozenset({"--data-parallel-size", "--data-parallel-size-local"})
"""Options of data parallelism within a pod; the others tell ranks of one another."""
CPU_IMAGE = re.compile(r"cpu|neuron|tpu|gaudi|hpu|xpu", re.IGNORECASE)


class Engine(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One server that a container runs."""

    workload: Workload
    pod_set: PodSet
    container: Container
    launch: Launch
    context: Context

    @property
    def program(self) -> str:
        return self.launch.program

    @property
    def is_vllm(self) -> bool:
        return self.program in VLLM_LIKE and self.launch.value("--backend") != "huggingface"

    @cached_property
    def num_gpus(self) -> int:
        """Whole GPUs that the container asks for."""
        return sum(self.container.requests.get(name, 0) for name in _WHOLE_GPUS)

    @cached_property
    def has_other_devices(self) -> bool:
        """Whether it asks for parts of a GPU, for devices by claim, or for devices of another kind."""
        others = [name for name in self.container.requests if "/" in name and name not in _WHOLE_GPUS]
        devices = [name for name in others if re.search(r"mig-|gpu|neuron|tpu|gaudi|xe$|npu", name)]
        return bool(devices) or bool(look.entries(self.container.spec, ("resources", "claims")))

    @property
    def has_config_file(self) -> bool:
        """Whether options come from a file that is not here."""
        return any(self.launch.option(name) is not None for name in ("--config", "--extra-llm-api-options"))

    @cached_property
    def version(self) -> tuple[int, int, int] | None:
        """Of vLLM, by the tag of its own image; None where the image is another's or the tag says none."""
        head, _, tag = self.container.image.partition("@")[0].rpartition(":")
        if not head or "/" in tag or not _OFFICIAL.search(head):
            return None
        found = _VERSION.match(tag)
        return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None

    @cached_property
    def release(self) -> Release | None:
        """Of any server with a table, by the tag of its project's own image; None where nothing says it."""
        head, _, tag = self.container.image.partition("@")[0].rpartition(":")
        own = _RELEASES.get(self.program)
        return release_of(tag) if own is not None and head and "/" not in tag and own.search(head) else None

    @property
    def is_moving(self) -> bool:
        """Whether its image is the project's own and takes what is newest."""
        head, _, tag = self.container.image.partition("@")[0].rpartition(":")
        name = tag if not head else self.container.image.partition("@")[0] if "/" in tag else head
        own = _RELEASES.get(self.program)
        is_newest = not head or "/" in tag or tag in {"latest", "nightly"}
        return own is not None and own.search(name) is not None and is_newest and "@" not in self.container.image

    @property
    def options(self) -> Options | None:
        """The table of its server's options."""
        return options_of(self.program) if self.program in TABLES else None

    @cached_property
    def is_cpu(self) -> bool:
        """Whether its image is one for CPUs, or for accelerators that are no GPUs."""
        return CPU_IMAGE.search(self.container.image) is not None

    def number(self, *names: str) -> int | None:
        """The first of these options that is there, as a whole number; None where none is, or is none."""
        for name in names:
            value = self.launch.value(name)
            if value is not None:
                try:
                    return int(value)
                except ValueError:
                    return None
        return None

    def fraction(self, *names: str) -> float | None:
        for name in names:
            value = self.launch.value(name)
            if value is not None:
                try:
                    return float(value)
                except ValueError:
                    return None
        return None

    def is_on(self, name: str) -> bool:
        """Whether a switch is given, and not switched off again after it."""
        last = None
        for option in self.launch.options:
            if option.name == name:
                last = option.value is None or option.value.lower() not in {"false", "0", "no"}
            elif option.name in _opposites(name):
                last = False
        return bool(last)

    def is_off(self, name: str) -> bool:
        """Whether a switch that is on by default is switched off."""
        given = [option for option in self.launch.options if option.name == name or option.name in _opposites(name)]
        return bool(given) and not self.is_on(name)

    @cached_property
    def tensor_parallel(self) -> int:
        """Given, or one; KServe's server takes all GPUs that it sees whatever is given, and TGI where nothing is.

        Source: kserve/python/huggingfaceserver/huggingfaceserver/vllm/vllm_model.py; TGI's launcher/src/main.rs.
        """
        given = self.number("--tensor-parallel-size", "--num-shard")
        if self.program == "huggingfaceserver" and not self.spans_pods:
            return max(1, self.num_gpus)
        if self.program == "tgi" and given is None and self.launch.value("--sharded") != "false":
            return max(1, self.num_gpus)
        return max(1, given or 1)

    @cached_property
    def pipeline_parallel(self) -> int:
        return max(1, self.number("--pipeline-parallel-size") or 1)

    @cached_property
    def _misspelt(self) -> frozenset[str]:
        """The options that were meant where a name is written that the server does not have."""
        options = self.options
        if options is None or self.program == "huggingfaceserver":  # that one drops them, and starts
            return frozenset()
        unknown = (name for option in self.launch.options if not options.match(name := self.spelling(option)))
        return frozenset(near.replace("_", "-") for name in unknown if (near := options.nearest(name)) is not None)

    @property
    def is_spread_unknown(self) -> bool:
        """Whether an option that says on how many GPUs it runs is misspelt: what was meant is not known."""
        return any(name.startswith(_PARALLEL) for name in self._misspelt)

    @cached_property
    def data_parallel(self) -> int:
        """Copies of the model that this container runs."""
        return max(1, self.number("--data-parallel-size-local", "--data-parallel-size") or 1)

    @property
    def spans_pods(self) -> bool:
        """Whether several pods may make up one engine: what one of them asks for is then a part."""
        if self.workload.num_pods > 1 or self.workload.is_gang or len(self.workload.pod_sets) > 1:
            return True
        given = {option.name for option in self.launch.options}
        ray = (self.launch.value("--distributed-executor-backend") or "") == "ray"
        ranks = any(name.startswith("--data-parallel-") and name not in OWN_RANKS for name in given)
        return bool(given & SEVERAL_NODES) or ranks or ray or "ray start" in self.text or "LWS_" in self.text

    @cached_property
    def text(self) -> str:
        """Its command line as one text."""
        parts = (part for key in ("command", "args") for part in look.entries(self.container.spec, (key,)))
        return " ".join(str(part) for part in parts)

    @cached_property
    def shape(self) -> ModelShape | None:
        """Of its model, as far as that is known without a network."""
        return self.context.shapes(self.launch.model) if self.launch.model else None

    @cached_property
    def quantization(self) -> str:
        value = self.launch.value("--quantization") or self.launch.value("--quantize") or ""
        return "" if value.lower() in {"none", "auto"} else value

    @cached_property
    def max_model_len(self) -> int | None:
        """As given; None for the model's own, for `auto`, and for what is no number."""
        value = self.number("--max-model-len", "--max-model-length", "--context-length", "--max-seq-len")
        return value if value is not None and value > 0 else None

    @cached_property
    def utilization(self) -> float:
        """Share of the GPU's memory that vLLM takes, given or by its version."""
        given = self.fraction("--gpu-memory-utilization")
        if given is not None:
            return given
        return 0.9 if self.version is not None and self.version < NEWER_DEFAULT else 0.92

    @cached_property
    def gpus(self) -> tuple[tuple[Accelerator, str], ...]:
        """The accelerators that it may land on, each with how that is known; none where nothing says."""
        if not self.num_gpus or self.has_other_devices:
            return ()
        return accelerators_of(self.pod_set, self.context)

    @cached_property
    def memory(self) -> ServingMemory | None:
        """On the roomiest accelerator that it may land on; None where model or accelerator is not known, where its
        options reach beyond what is modelled or one that counts is misspelt, and for servers whose budget is not
        known."""
        return self.memory_on(self.tensor_parallel)

    def memory_on(self, tensor_parallel: int) -> ServingMemory | None:
        """The same, were it divided over so many GPUs."""
        if self.shape is None or not self.gpus or self.has_config_file:
            return None
        if any(name.startswith(_SIZES) for name in self._misspelt):
            return None
        budgeting = Budgeting.VLLM if self.is_vllm else _BUDGETS.get(self.program)
        share = self.utilization if budgeting is Budgeting.VLLM else self.fraction(*_FRACTIONS)
        given = {option.name for option in self.launch.options}
        if budgeting is None or any(name.startswith(_BEYOND) for name in given):
            return None
        if not 0 < (share if share is not None else 1) <= 1 or (share is None and given & set(_FRACTIONS)):
            return None
        if self.quantization and self.shape.quantization is None and named(self.quantization) is None:
            return None
        if budgeting is Budgeting.TRTLLM and (self.launch.value("--backend") or "pytorch") != "pytorch":
            return None
        accelerator = max((one for one, _ in self.gpus), key=lambda one: one.memory_bytes)
        kv_dtype = self.launch.value("--kv-cache-dtype") or "auto"
        if kv_dtype != "auto" and not re.fullmatch(r"fp8(_e4m3|_e5m2|_inc)?|bfloat16|float16", kv_dtype):
            return None
        try:
            return serving_memory(
                self.shape,
                accelerator=accelerator,
                tensor_parallel=tensor_parallel,
                pipeline_parallel=self.pipeline_parallel,
                expert_parallel=self.is_on("--enable-expert-parallel")
                or (self.number("--expert-parallel-size") or 1) > 1,
                dtype=self.launch.value("--dtype") or "auto",
                quantization=self.quantization or None,
                kv_dtype=kv_dtype,
                gpu_memory_utilization=share,
                max_model_len=self.max_model_len,
                max_num_seqs=self.number("--max-num-seqs", "--max-batch-size"),
                max_num_batched_tokens=self.number("--max-num-batched-tokens", "--max-num-tokens"),
                enforce_eager=self.is_on("--enforce-eager") or self.is_on("--disable-cuda-graph"),
                budgeting=budgeting,
            )
        except ValueError:
            return None

    @property
    def memory_evidence(self) -> tuple[str, ...]:
        """The arithmetic, and what it is about."""
        memory, shape = self.memory, self.shape
        if memory is None or shape is None:
            return ()
        accelerator, why = max(self.gpus, key=lambda one: one[0].memory_bytes)
        return (f"{accelerator.name} ({why})", *memory.arithmetic, *shape.notes)

    def at(self, name: str) -> Path:
        """Where an option stands; the container's place where it does not."""
        option = self.launch.option(name)
        return option.path if option is not None else self.here

    @property
    def here(self) -> Path:
        """Where its command line stands, or the container that has none."""
        for key in ("args", "command"):
            if look.entries(self.container.spec, (key,)):
                return (*self.container.path, key)
        return self.container.path

    def problem(self, name: str, message: str, **more: Any) -> Problem:
        """A problem of an option, at the option itself; of the command line where the option is not there."""
        option = self.launch.option(name)
        return self.option_problem(option, message, **more) if option is not None else self.whole(message, **more)

    def model_problem(self, message: str, **more: Any) -> Problem:
        """A problem of the model, at the place where it is named."""
        launch = self.launch
        if not launch.model_path:
            return self.whole(message, **more)
        named = Option(name="", value=None, path=launch.model_path, written=launch.model)
        return self.option_problem(named, message, **more)

    def option_problem(self, option: Option, message: str, **more: Any) -> Problem:
        """A problem of this very option."""
        made = problem(self.workload.document, option.path or self.here, message, **more)
        return replace(made, place=place_of(self.workload.document, option)) if option.path else made

    def whole(self, message: str, **more: Any) -> Problem:
        """A problem of the container as a whole."""
        return problem(self.workload.document, self.container.path, message, **more)

    def known(self, option: Option) -> Known | None:
        """What the table of its server knows of an option."""
        if self.options is None:
            return None
        found = self.options.match(self.spelling(option))
        return found.option if isinstance(found, Match) else None

    def spelling(self, option: Option) -> str:
        """An option's name as its parser compares it: without what follows a dot or an equals, with dashes for
        underscores where the parser makes nothing of the difference."""
        head = (option.written or option.name).partition("=")[0].partition(".")[0]
        return head.replace("_", "-") if head.startswith("--") and self.program not in EXACT else head


def _opposites(name: str) -> tuple[str, ...]:
    """Names that switch a switch off: `--no-enable-x`, and `--disable-x` of vLLM from 0.33 on."""
    _, how, what = name[2:].partition("enable-")
    return (f"--no-{name[2:]}", f"--disable-{what}") if how and name.startswith("--enable-") else (f"--no-{name[2:]}",)


def engines(workload: Workload, context: Context) -> tuple[Engine, ...]:
    """The servers of a workload's main containers; made once in a run, as two dozen rules ask for them."""
    made: dict[int, tuple[Engine, ...]] = context.__dict__.setdefault("_engines", {})
    if id(workload) not in made:
        made[id(workload)] = tuple(_engines(workload, context))
    return made[id(workload)]


def _engines(workload: Workload, context: Context) -> Iterator[Engine]:
    for pod_set in workload.pod_sets:
        for container in pod_set.containers:
            if (container.is_init and not container.is_sidecar) or _is_ray_node(workload, container):
                continue
            launch = container.launch
            while launch is not None and launch.program not in SERVERS:
                launch = launch.inner
            if launch is not None:
                yield Engine(workload=workload, pod_set=pod_set, container=container, launch=launch, context=context)


def _is_ray_node(workload: Workload, container: Container) -> bool:
    """Whether KubeRay starts a node of Ray in place of what the container's image starts by itself.

    Source: https://docs.ray.io/en/latest/cluster/kubernetes/user-guides/pod-command.html
    """
    return workload.kind.startswith("Ray") and not (container.spec.get("command") or container.spec.get("args"))


def accelerators_of(pod_set: PodSet, context: Context) -> tuple[tuple[Accelerator, str], ...]:
    """What `--accelerator` names; else what the pods' own selector says; else what the fleet's matching nodes have."""
    if context.accelerator is not None:
        return ((context.accelerator, "--accelerator"),)
    named = _selected(pod_set.spec)
    if named or context.fleet is None:
        return named
    from ironloom.place.fit import matching

    found: dict[str, int] = {}
    nodes = [node for node in matching(pod_set, context.fleet) if node.num_gpus]
    for node in nodes:
        if node.accelerator is None:
            return ()
        found[node.accelerator] = found.get(node.accelerator, 0) + 1
    return tuple(
        (accelerators.ACCELERATORS[name], f"{count} matching node{'s' if count != 1 else ''} of the fleet")
        for name, count in found.items()
        if name in accelerators.ACCELERATORS
    )


def accelerators_named(pod_set: PodSet) -> tuple[tuple[Accelerator, str], ...]:
    """What the pods' own selector says alone."""
    return _selected(pod_set.spec)


def _selected(spec: Mapping[str, Any]) -> tuple[tuple[Accelerator, str], ...]:
    """The accelerators that node selector and required node affinity name by labels that are known."""
    for key, values in _required(spec):
        found: list[tuple[Accelerator, str]] = []
        for value in values:
            if key in _GPU_LABELS:
                accelerator = accelerators.find(value)
            else:
                kind = instances.find(value)
                accelerator = accelerators.ACCELERATORS.get(kind.accelerator) if kind is not None else None
            if accelerator is None:
                found = []
                break
            found.append((accelerator, f"{key}: {value}"))
        if found:
            return tuple({one.name: (one, why) for one, why in found}.values())
    return ()


def _required(spec: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Labels that a node must have, with the values that it may have, as far as they name a GPU."""
    wanted = {*_GPU_LABELS, *_INSTANCE_LABELS}
    for key, value in look.mapping(spec, ("nodeSelector",)).items():
        if key in wanted and isinstance(value, str):
            yield key, [value]
    required = ("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
    terms = look.entries(spec, required)
    if len(terms) == 1:
        for one in look.entries(terms[0], ("matchExpressions",)):
            key, values = look.text(one, ("key",)), look.entries(one, ("values",))
            if key in wanted and look.text(one, ("operator",)) == "In" and values:
                yield key, [value for value in values if isinstance(value, str)]
