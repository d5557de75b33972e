"""The parts of a script that train a model over several GPUs: wraps, optimizers, loops, and who takes care of what."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from ironloom.workload.scripts.ranks import is_rank_name, words
from ironloom.workload.scripts.scopes import Kind
from ironloom.workload.scripts.terms import DDP, FSDP1, FSDP2

if TYPE_CHECKING:
    from ironloom.workload.scripts.model import Call, Script

FRAMEWORKS = frozenset(
    {
        "accelerate", "deepspeed", "lightning", "pytorch_lightning", "lightning_fabric", "ray", "composer",
        "colossalai", "torchtitan", "torchtune", "fairscale", "fairseq", "horovod", "megatron", "nemo",
        "nemo_automodel", "trl", "axolotl", "mmcv", "mmengine", "ignite", "catalyst", "torch_xla", "oneflow",
        "paddle", "jax", "hivemind", "trainer", "llmfoundry", "torchrec", "detectron2", "fastai", "fastcore",
        "smdistributed", "habana_frameworks",
    }
)  # fmt: skip
"""Packages that may set up the processes, the data or the checkpoints of a script by themselves."""
_KNOWN = frozenset(
    {
        "torch", "torchvision", "torchaudio", "torchtext", "torchdata", "torchao", "torchmetrics", "functorch",
        "triton", "numpy", "scipy", "pandas", "sklearn", "matplotlib", "seaborn", "PIL", "cv2", "skimage", "einops",
        "timm", "transformers", "datasets", "tokenizers", "peft", "evaluate", "huggingface_hub", "safetensors",
        "sentencepiece", "tiktoken", "nltk", "bitsandbytes", "flash_attn", "xformers", "diffusers",
        "sentence_transformers", "tqdm", "rich", "loguru", "wandb", "mlflow", "tensorboard", "tensorboardX", "aim",
        "psutil", "pynvml", "nvidia_smi", "yaml", "omegaconf", "hydra", "fire", "click", "typer", "absl", "dotenv",
        "pydantic", "attr", "packaging", "requests", "boto3", "fsspec", "s3fs", "gcsfs", "pyarrow", "h5py", "lmdb",
        "webdataset", "typing_extensions", "setuptools", "pkg_resources", "six", "jsonlines", "orjson", "msgpack",
        "zstandard", "submitit", "__future__",
    }
)  # fmt: skip
"""Packages that set up nothing of the kind."""
_OPTIMIZER_NAME = re.compile(r"(^|_)(optim|optimizer|opt|optimizers)(_|$|\d)", re.I)
_MOVES = frozenset({"to", "cuda"})
_MAX_STEPS = 12
_MAX_CALLS = 100
"""Of one kind that are looked at: what is compared with each other must not take long in a file that was generated."""


class Training:
    """How a script trains."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._gpus: dict[ast.AST, bool] = {}

    @cached_property
    def fsdp1(self) -> Sequence[Call]:
        return self._script.calls_of(FSDP1)[:_MAX_CALLS]

    @cached_property
    def fsdp2(self) -> Sequence[Call]:
        return self._script.calls_of(FSDP2)[:_MAX_CALLS]

    @cached_property
    def ddp(self) -> Sequence[Call]:
        return self._script.calls_of(DDP)[:_MAX_CALLS]

    @cached_property
    def wraps(self) -> Sequence[Call]:
        """The calls that make a model one of many processes, in the order of the text."""
        return self._script.calls_of(FSDP1, FSDP2, DDP)[:_MAX_CALLS]

    @cached_property
    def is_own(self) -> bool:
        """Whether the script itself sets up what it trains with: no framework does, and no module of its neighbours
        may. Only then does the absence of a thing in its text mean anything."""
        packages = self._script.packages
        if packages & FRAMEWORKS or self._script.scopes.has_star_import:
            return False
        if self._script.calls_of("transformers.Trainer", "transformers.Seq2SeqTrainer"):
            return False
        return packages <= _KNOWN | sys.stdlib_module_names

    @cached_property
    def is_started(self) -> bool:
        """Whether the script is one to be started, not a module that another one imports."""
        flow = self._script.flow
        work = [*self.wraps, *self.backwards]
        return flow.has_entry() or any(self._runs_on_import(call.node) for call in work)

    def _runs_on_import(self, node: ast.AST) -> bool:
        for _ in range(_MAX_STEPS):
            function = self._script.flow.function(node)
            if function is None:
                return self._script.flow.is_on_import(node)
            callers = self._script.names.calls_of_function.get(function, [])
            if not callers:
                return False
            node = callers[0]
        return False

    @property
    def is_whole(self) -> bool:
        """Whether what is not in the text is not in the run either."""
        return self.is_own and self.is_started

    @cached_property
    def backwards(self) -> Sequence[Call]:
        """The calls of `loss.backward()`."""
        return [
            call
            for call in self._script.methods("backward")[:_MAX_CALLS]
            if not any(name.startswith(("torch.autograd.", "accelerate.")) for name in call.names)
            and not self._is_autograd_function(call.node)
        ]

    def _is_autograd_function(self, node: ast.AST) -> bool:
        """Whether it stands in a custom function's own backward."""
        function = self._script.flow.function(node)
        return isinstance(function, ast.FunctionDef) and function.name in {"backward", "forward"}

    @cached_property
    def loops(self) -> Sequence[ast.For | ast.AsyncFor | ast.While]:
        """The loops whose rounds each do a backward pass, innermost ones only."""
        found = [loops[0] for call in self.backwards if (loops := self._script.flow.loops(call.node))]
        return list(dict.fromkeys(found))

    @cached_property
    def optimizers(self) -> Sequence[Call]:
        """The calls that make an optimizer over a model's parameters."""
        return [
            call
            for call in (self._script.calls if "optim" in self._script.text else ())
            if re.fullmatch(r"(torch\.optim|bitsandbytes\.optim|transformers|apex\.optimizers)\.[A-Z]\w+", call.name)
            and (first := call.get("params", 0)) is not None
            and any(isinstance(node, ast.Attribute) and "parameters" in node.attr for node in ast.walk(first))
        ][:_MAX_CALLS]

    @cached_property
    def steps(self) -> Sequence[Call]:
        """The calls of an optimizer's step."""
        return [call for call in self._script.methods("step")[:_MAX_CALLS] if self.is_optimizer(call)]

    def is_optimizer(self, call: Call) -> bool:
        """Whether a method is an optimizer's, by what it is or, where that is not known, by its name."""
        func = call.node.func
        if not isinstance(func, ast.Attribute):
            return False
        known = [name for name in call.names if name]
        if known:
            return any(re.match(r"(torch\.optim|bitsandbytes\.optim|transformers|apex\.optimizers)\.[A-Z]\w+\(\)", name)
                       for name in known) and not any(".lr_scheduler." in name for name in known)  # fmt: skip
        last = next(iter(words(func.value)), "")
        return _OPTIMIZER_NAME.search(last) is not None and "scheduler" not in last.lower()

    def module(self, wrap: Call) -> ast.expr | None:
        """What a wrap is put around."""
        return wrap.get("module", 0)

    def model_class(self, node: ast.AST | None) -> str:
        """The full name of the class or loader that a model comes from; empty where it is not known."""
        if node is None:
            return ""
        name = self._script.names.one(node)
        return name.removesuffix("()")

    def is_toy(self, node: ast.AST | None) -> bool:
        """Whether a model is one that the script builds itself from plain layers."""
        name = self.model_class(node)
        return (name.startswith(".") and name[1:] in self._script.names.classes) or name.startswith(
            ("torch.nn.", "torchvision.")
        )

    def is_gpu(self, node: ast.AST | None) -> bool:
        """Whether a device surely is a GPU, where there is one."""
        if node is not None and node not in self._gpus:
            self._gpus[node] = False
            self._gpus[node] = self._is_gpu(node)
        return node is not None and self._gpus[node]

    def _is_gpu(self, node: ast.AST | None) -> bool:
        for _ in range(_MAX_STEPS):
            node = self._script.values.origin(node)
            text = self._script.values.text(node)
            if text is not None:
                return text.startswith("cuda")
            if isinstance(node, ast.IfExp):
                return self.is_gpu(node.body) or self.is_gpu(node.orelse)
            if isinstance(node, ast.Call) and self._script.names.one(node.func) == "torch.device" and node.args:
                node = node.args[0]
                continue
            break
        if node is None:
            return False
        if isinstance(node, ast.Constant):
            return type(node.value) is int
        if isinstance(node, ast.Call) and self._script.names.one(node.func) == "torch.cuda.current_device":
            return True
        return isinstance(node, ast.Name | ast.BinOp | ast.Call | ast.Subscript | ast.Attribute) and any(
            is_rank_name(word) for word in words(node)
        )

    def move(self, node: ast.AST | None) -> ast.Call | None:
        """The call by which a whole model was put on a GPU, of all that happened to it before this use; None where
        none is seen."""
        waiting: list[ast.AST] = [node] if node is not None else []
        for _ in range(_MAX_STEPS):
            if not waiting:
                return None
            node = waiting.pop()
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if self.is_move(node):
                    return node
                if self._script.names.function(node.func) is None and node.func.attr != "from_pretrained":
                    waiting.append(node.func.value)
                continue
            if isinstance(node, ast.Call) and (function := self._script.names.function(node.func)) is not None:
                waiting += [one for one in self._script.names.returns(function) if one is not None]
                continue
            if isinstance(node, ast.Name):
                if (moved := self._moved_in_place(node)) is not None:
                    return moved
                for binding in self._script.names.definitions(node):
                    if binding.kind is Kind.VALUE and binding.value is not None and binding.index is None:
                        waiting.append(binding.value)
                    elif binding.kind is Kind.PARAMETER:
                        waiting += self._script.names.passed(binding) or []
        return None

    def is_move(self, call: ast.Call) -> bool:
        """`x.cuda()`, or `x.to(device)` with a GPU."""
        if not isinstance(call.func, ast.Attribute) or call.func.attr not in _MOVES:
            return False
        if call.func.attr == "cuda":
            return True
        device = next((one.value for one in call.keywords if one.arg == "device"), call.args[0] if call.args else None)
        return self.is_gpu(device)

    def _moved_in_place(self, node: ast.Name) -> ast.Call | None:
        """`model.to(device)` as a statement of its own, between the name's last binding and this use."""
        scopes = self._script.scopes
        here = (node.lineno, node.col_offset)
        since = max((binding.at for binding in scopes.definitions(node) if binding.at <= here), default=(0, 0))
        path = scopes.branches(node)
        for call in self._script.methods(*_MOVES):
            func = call.node.func
            is_same = isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name) and func.value.id == node.id
            if not is_same or not self.is_move(call.node):
                continue
            if scopes.of_node[call.node].home is not scopes.of_node[node].home:
                continue
            is_statement = isinstance(scopes.parents.get(call.node), ast.Expr)
            surely = all(path.get(above) == part for above, part in scopes.branches(call.node).items())
            if is_statement and surely and since <= (call.node.lineno, call.node.col_offset) < here:
                return call.node
        return None

    @cached_property
    def mentions(self) -> frozenset[str]:
        """Every name, attribute, keyword and short text of the script: for what must not be claimed to be absent."""
        found: set[str] = set()
        for node in self._script.nodes:
            if isinstance(node, ast.Name):
                found.add(node.id)
            elif isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.keyword) and node.arg:
                found.add(node.arg)
            elif isinstance(node, ast.alias):
                # Under its own name it is mentioned where it is used.
                found |= {node.name.rpartition(".")[2]} if node.asname else set()
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 60:
                found.add(node.value)
        return frozenset(found)

    def mentions_any(self, *parts: str) -> bool:
        """Whether a word of the script has one of these in it, whatever the case."""
        return any(part in word.lower() for word in self.mentions for part in parts)
