"""The full name of what an expression is: `torch.optim.AdamW` of `AdamW`, `vllm.LLM().generate` of `llm.generate`.

A pair of brackets in a name stands for a call: `torch.optim.AdamW()` is what the class gives back. A name that begins
with a dot is the script's own (`.train`, `.Net()`). The empty name is what is not known.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Mapping, Sequence
from functools import cached_property

from ironloom.workload.scripts.scopes import Binding, Kind, Scopes
from ironloom.workload.scripts.terms import FUNCTIONS

UNKNOWN = ""
MAX_DEPTH = 40
"""Steps from one name to the next; what is further away is not known."""
_BUILTINS = frozenset(dir(builtins))
_SAME_OBJECT = frozenset(
    {"to", "cuda", "cpu", "train", "eval", "half", "float", "bfloat16", "double", "to_empty", "requires_grad_"}
)
"""Methods of a module that give back the module."""
_FIRST_ARGUMENT = frozenset({"torch.compile", "copy.deepcopy", "typing.cast"})
_PREFIXES = {
    "torch.distributed.fsdp.fully_sharded_data_parallel": "torch.distributed.fsdp",
    "torch.distributed.fsdp._fully_shard": "torch.distributed.fsdp",
    "torch.distributed._composable.fsdp.fully_shard": "torch.distributed.fsdp.fully_shard",
    "torch.distributed._composable.fsdp": "torch.distributed.fsdp",
    "torch.distributed.distributed_c10d": "torch.distributed",
    "torch.distributed._tensor.device_mesh": "torch.distributed.device_mesh",
    "torch.distributed.init_device_mesh": "torch.distributed.device_mesh.init_device_mesh",
    "torch.nn.parallel.distributed": "torch.nn.parallel",
    "torch.nn.utils.clip_grad": "torch.nn.utils",
    "torch.optim.adam.Adam": "torch.optim.Adam",
    "torch.optim.adamw": "torch.optim",
    "torch.optim.sgd": "torch.optim",
    "torch.utils.data.DistributedSampler": "torch.utils.data.distributed.DistributedSampler",
    "torch.utils.data.dataloader": "torch.utils.data",
    "torch.utils.data.dataset": "torch.utils.data",
    "vllm.entrypoints.llm": "vllm",
    "vllm.sampling_params": "vllm",
    "vllm.engine.arg_utils": "vllm",
    "vllm.engine.async_llm_engine": "vllm",
    "vllm.v1.engine.async_llm.AsyncLLM": "vllm.AsyncLLMEngine",
    "vllm.v1.engine.async_llm": "vllm",
    "sglang.srt.entrypoints.engine": "sglang",
    "accelerate.accelerator": "accelerate",
    "transformers.trainer": "transformers",
    "transformers.training_args": "transformers",
}
"""Where a thing is at home, by the other modules that it can be had from."""


def canonical(dotted: str) -> str:
    """A full name as this room writes it: `vllm.LLM` for `vllm.entrypoints.llm.LLM`."""
    head = dotted
    while head:
        if head in _PREFIXES:
            return _PREFIXES[head] + dotted[len(head) :]
        head = head.rpartition(".")[0]
    return dotted


class Names:
    """The names of one script's expressions, each found once."""

    def __init__(self, tree: ast.Module, scopes: Scopes, nodes: Sequence[ast.AST]) -> None:
        self.tree = tree
        self.scopes = scopes
        self._nodes = nodes
        self._found: dict[tuple[ast.AST, int | None], frozenset[str]] = {}
        self._passed: dict[Binding, list[ast.expr] | None] = {}
        self._depth = 0

    def of(self, node: ast.AST, index: int | None = None) -> frozenset[str]:
        """All that an expression may be; the empty name among them where something of it is not known.

        `index` asks for that item of a sequence.
        """
        key = (node, index)
        if key not in self._found:
            if self._depth > MAX_DEPTH:
                return frozenset({UNKNOWN})
            self._found[key] = frozenset({UNKNOWN})  # what is defined by itself
            self._depth += 1
            try:
                self._found[key] = frozenset(self._find(node, index))
            finally:
                self._depth -= 1
        return self._found[key]

    def one(self, node: ast.AST) -> str:
        """What an expression is, where it can be one thing alone; else the empty name."""
        found = self.of(node)
        return next(iter(found)) if len(found) == 1 else UNKNOWN

    def definitions(self, node: ast.Name) -> list[Binding]:
        """The bindings that a name may mean, a placeholder None beside another value left out."""
        found = self.scopes.definitions(node)
        real = [one for one in found if not (isinstance(one.value, ast.Constant) and one.value.value is None)]
        return real or found

    def function(self, func: ast.AST) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
        """The script's own function that an expression means; None where it is another, or one of several."""
        name = func.id if isinstance(func, ast.Name) else func.attr if isinstance(func, ast.Attribute) else ""
        if name not in self._function_names:
            return None
        if isinstance(func, ast.Name):
            found = self.definitions(func)
            node = found[0].node if len(found) == 1 and found[0].kind is Kind.FUNCTION else None
            return node if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else None
        if isinstance(func, ast.Attribute):
            owner = self.owner(func)
            return self.method(owner, func.attr) if owner is not None else None
        return None

    def owner(self, node: ast.Attribute) -> ast.ClassDef | None:
        """The class of which `self.x` or `instance.x` is a part, where the script has it."""
        if not isinstance(node.value, ast.Name):
            return None
        definitions = self.definitions(node.value)
        if len(definitions) == 1 and definitions[0].kind is Kind.PARAMETER:
            function = definitions[0].function
            above = self.scopes.parents.get(function) if function is not None else None
            if isinstance(above, ast.ClassDef) and isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                first = [*function.args.posonlyargs, *function.args.args][:1]
                return above if first and first[0].arg == node.value.id else None
        name = self.one(node.value)
        return self.classes.get(name[1:-2]) if name.startswith(".") and name.endswith("()") else None

    @cached_property
    def _function_names(self) -> frozenset[str]:
        return frozenset(n.name for n in self._nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))

    def method(self, owner: ast.ClassDef, name: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
        """A method that a class of the script has itself."""
        return self._methods.get((owner, name))

    @cached_property
    def _methods(self) -> Mapping[tuple[ast.AST, str], ast.FunctionDef | ast.AsyncFunctionDef]:
        return {
            (above, node.name): node
            for node in self._nodes
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and isinstance(above := self.scopes.parents.get(node), ast.ClassDef)
        }

    @cached_property
    def classes(self) -> Mapping[str, ast.ClassDef]:
        """The script's own classes by name."""
        return {node.name: node for node in self._nodes if isinstance(node, ast.ClassDef)}

    @cached_property
    def fields(self) -> Mapping[tuple[ast.ClassDef, str], list[ast.expr]]:
        """What is assigned to `self.x` anywhere in a class."""
        found: dict[tuple[ast.ClassDef, str], list[ast.expr]] = {}
        for node in self._nodes:
            if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
                continue
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                owner = self.owner(target) if isinstance(target, ast.Attribute) else None
                if owner is not None and isinstance(target, ast.Attribute):
                    found.setdefault((owner, target.attr), []).append(node.value)
        return found

    @cached_property
    def calls_of_function(self) -> Mapping[ast.AST, list[ast.Call]]:
        """The calls of each function of the script."""
        found: dict[ast.AST, list[ast.Call]] = {}
        for node in self._nodes:
            if isinstance(node, ast.Call) and (function := self.function(node.func)) is not None:
                found.setdefault(function, []).append(node)
        return found

    def passed(self, binding: Binding) -> list[ast.expr] | None:
        """What the calls in this script pass for a parameter; None where that is not all that is known to call it."""
        if binding not in self._passed:
            self._passed[binding] = self._find_passed(binding)
        return self._passed[binding]

    def _find_passed(self, binding: Binding) -> list[ast.expr] | None:
        function = binding.function
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) or function in self._handed_on:
            return None
        parameters = [one.arg for one in (*function.args.posonlyargs, *function.args.args)]
        is_method = isinstance(self.scopes.parents.get(function), ast.ClassDef)
        found: list[ast.expr] = []
        for call in self.calls_of_function.get(function, ()):
            value = _argument(call, binding.name, parameters[1:] if is_method else parameters)
            value = value or _default(function, binding.name)
            if value is None:
                return None
            found.append(value)
        return found or None

    @cached_property
    def _handed_on(self) -> frozenset[ast.AST]:
        """Functions that are used as values, so that others may call them."""
        found: set[ast.AST] = set()
        for node in self._nodes:
            if not isinstance(node, ast.Name | ast.Attribute) or not isinstance(node.ctx, ast.Load):
                continue
            above = self.scopes.parents.get(node)
            is_called = isinstance(above, ast.Call) and above.func is node
            if not is_called and (function := self.function(node)) is not None:
                found.add(function)
        return frozenset(found)

    def _find(self, node: ast.AST, index: int | None) -> set[str]:
        if index is not None and isinstance(node, ast.Tuple | ast.List):
            plain = not any(isinstance(item, ast.Starred) for item in node.elts)
            return set(self.of(node.elts[index])) if plain and index < len(node.elts) else {UNKNOWN}
        if isinstance(node, ast.Call):
            return self._of_call(node, index)
        if isinstance(node, ast.IfExp):
            return {*self.of(node.body, index), *self.of(node.orelse, index)}
        if index is not None and not isinstance(node, ast.Name):
            return {UNKNOWN}
        if isinstance(node, ast.Name):
            return self._of_name(node, index)
        if isinstance(node, ast.Attribute):
            return self._of_attribute(node)
        if isinstance(node, ast.BoolOp):
            return {name for value in node.values for name in self.of(value)}
        if isinstance(node, ast.Await | ast.NamedExpr):
            return set(self.of(node.value))
        return {UNKNOWN}

    def _of_name(self, node: ast.Name, index: int | None) -> set[str]:
        definitions = self.definitions(node)
        if not definitions:
            return {node.id if node.id in _BUILTINS and index is None else UNKNOWN}
        return {name for binding in definitions for name in self._of_binding(binding, index)}

    def _of_binding(self, binding: Binding, index: int | None) -> set[str]:
        if binding.kind is Kind.VALUE and binding.value is not None:
            if binding.index is not None and index is not None:
                return {UNKNOWN}
            return set(self.of(binding.value, binding.index if index is None else index))
        if index is not None:
            return {UNKNOWN}
        if binding.kind is Kind.IMPORT:
            return {canonical(binding.dotted)}
        if binding.kind in {Kind.FUNCTION, Kind.CLASS}:
            return {f".{binding.name}"}
        if binding.kind is Kind.PARAMETER:
            annotation = getattr(binding.node, "annotation", None)
            values = self.passed(binding)
            if values is not None:
                return {name for value in values for name in self.of(value)}
            if isinstance(annotation, ast.Name | ast.Attribute):
                return {f"{name}()" if name else UNKNOWN for name in self.of(annotation)}
        return {UNKNOWN}

    def _of_attribute(self, node: ast.Attribute) -> set[str]:
        owner = self.owner(node)
        if owner is not None:
            if self.method(owner, node.attr) is not None:
                return {f".{owner.name}().{node.attr}"}
            values = self.fields.get((owner, node.attr), [])
            return {name for value in values for name in self.of(value)} or {UNKNOWN}
        return {canonical(f"{name}.{node.attr}") if name else UNKNOWN for name in self.of(node.value)}

    def _of_call(self, node: ast.Call, index: int | None) -> set[str]:
        function = self.function(node.func)
        if function is not None:
            returned = [one for one in self.returns(function) if one is not None]
            return {name for value in returned for name in self.of(value, index)} or {UNKNOWN}
        if index is not None:
            return {UNKNOWN}
        if isinstance(node.func, ast.Attribute) and node.func.attr in _SAME_OBJECT:
            return set(self.of(node.func.value))
        found: set[str] = set()
        for name in self.of(node.func):
            if name in _FIRST_ARGUMENT and node.args:
                found |= self.of(node.args[-1 if name == "typing.cast" else 0])
            else:
                found.add(f"{name}()" if name else UNKNOWN)
        return found

    def returns(self, function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.expr | None]:
        """What a function gives back, by its return statements."""
        return self._returns.get(function, [])

    @cached_property
    def _returns(self) -> Mapping[ast.AST, list[ast.expr | None]]:
        found: dict[ast.AST, list[ast.expr | None]] = {}
        for node in self._nodes:
            if isinstance(node, ast.Return):
                found.setdefault(self.scopes.of_node[node].home.node, []).append(node.value)
        return found


def _argument(call: ast.Call, name: str, parameters: list[str]) -> ast.expr | None:
    """What a call passes for a parameter; None where it is not said plainly."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    if name not in parameters:
        return None
    number = parameters.index(name)
    before = call.args[: number + 1]
    return before[number] if len(before) > number and not any(isinstance(one, ast.Starred) for one in before) else None


def _default(function: ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> ast.expr | None:
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    for one, value in zip(reversed(positional), reversed(arguments.defaults), strict=False):
        if one.arg == name:
            return value
    for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if one.arg == name:
            return default
    return None


def function_of(node: ast.AST, parents: Mapping[ast.AST, ast.AST]) -> ast.AST | None:
    """The function that a node stands in; None for the module."""
    above = parents.get(node)
    while above is not None and not isinstance(above, FUNCTIONS):
        above = parents.get(above)
    return above
