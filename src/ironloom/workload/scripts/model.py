"""A script: its syntax tree, what can be said of its parts without a run, and where each stands in the text."""

from __future__ import annotations

import ast
import symtable
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from ironloom.workload.manifests.nodes import NOWHERE, Place

if TYPE_CHECKING:
    from ironloom.workload.scripts.flow import Flow
    from ironloom.workload.scripts.names import Names
    from ironloom.workload.scripts.scopes import Scopes
    from ironloom.workload.scripts.serving import Serving
    from ironloom.workload.scripts.training import Training
    from ironloom.workload.scripts.values import Arguments, Values

GPU_PACKAGES = frozenset(
    {
        "torch", "torchvision", "vllm", "sglang", "transformers", "accelerate", "deepspeed", "lightning", "cupy",
        "pytorch_lightning", "tensorrt_llm", "trl", "peft", "diffusers", "jax", "flax", "tensorflow", "triton",
        "unsloth", "sentence_transformers", "lmdeploy", "composer", "torchtitan", "torchtune", "megatron", "nemo",
        "colossalai",
    }
)  # fmt: skip


class Call(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One call, by what is called."""

    node: ast.Call
    names: frozenset[str]
    """All that it may call; see `names`."""
    attribute: str
    """The method's name; empty for a call of a plain name."""
    arguments: Arguments

    @property
    def name(self) -> str:
        """What it calls, where that is one thing alone; else empty."""
        return next(iter(self.names)) if len(self.names) == 1 else ""

    def get(self, name: str, position: int | None = None) -> ast.expr | None:
        return self.arguments.get(name, position)

    def lacks(self, name: str, position: int | None = None) -> bool:
        return self.arguments.lacks(name, position)


class Script(msgspec.Struct, frozen=True, kw_only=True, eq=False, dict=True):
    """One Python file, parsed and never run.

    What is found out about it is found when it is asked for, by modules that are imported then: whoever checks
    manifests alone does not pay for them.
    """

    file: str
    text: str
    tree: ast.Module
    table: symtable.SymbolTable
    """The compiler's own view of its scopes."""

    def place(self, node: ast.AST) -> Place:
        """Where a node stands: line and column from 1, offsets in characters; NOWHERE for one without a place."""
        line, column = getattr(node, "lineno", None), getattr(node, "col_offset", None)
        if line is None or column is None:
            return NOWHERE
        start = self._offset(line, column)
        end_line, end_column = getattr(node, "end_lineno", None), getattr(node, "end_col_offset", None)
        end = start if end_line is None or end_column is None else self._offset(end_line, end_column)
        return Place(line=line, column=start - self._line_starts[line - 1] + 1, start=start, end=end)

    def source(self, node: ast.AST) -> str:
        """The text of a node."""
        place = self.place(node)
        return self.text[place.start : place.end]

    @cached_property
    def _walked(self) -> tuple[list[ast.AST], dict[ast.AST, ast.AST], dict[ast.AST, str]]:
        """Every node in the order of the text, the node that each stands in, and in which part of that; without
        recursion. Contexts and operators, which nodes share, are left out."""
        from ironloom.workload.scripts.scopes import children_of

        found: list[ast.AST] = []
        parents: dict[ast.AST, ast.AST] = {}
        parts: dict[ast.AST, str] = {}
        stack: list[ast.AST] = [self.tree]
        while stack:
            node = stack.pop()
            found.append(node)
            children = children_of(node)
            for child, part in children:
                parents[child], parts[child] = node, part
            stack.extend([child for child, _ in reversed(children)])
        return found, parents, parts

    @property
    def nodes(self) -> Sequence[ast.AST]:
        """Every node, in the order of the text; contexts and operators left out."""
        return self._walked[0]

    @property
    def parents(self) -> Mapping[ast.AST, ast.AST]:
        """The node that each node stands in."""
        return self._walked[1]

    @cached_property
    def scopes(self) -> Scopes:
        from ironloom.workload.scripts.scopes import read_scopes

        return read_scopes(self.tree, self.parents, self._walked[2])

    @cached_property
    def names(self) -> Names:
        from ironloom.workload.scripts.names import Names

        return Names(self.tree, self.scopes, self.nodes)

    @cached_property
    def values(self) -> Values:
        from ironloom.workload.scripts.values import Values

        return Values(self.names)

    @cached_property
    def flow(self) -> Flow:
        from ironloom.workload.scripts.flow import Flow

        return Flow(self.names, self.nodes)

    @cached_property
    def is_of_gpus(self) -> bool:
        """Whether it imports anything that works with GPUs; of other Python there is nothing to say here."""
        return any(name in self.text for name in GPU_PACKAGES) and bool(self.packages & GPU_PACKAGES)

    @cached_property
    def training(self) -> Training:
        from ironloom.workload.scripts.training import Training

        return Training(self)

    @cached_property
    def serving(self) -> Serving:
        from ironloom.workload.scripts.serving import Serving

        return Serving(self)

    @cached_property
    def undefined(self) -> Mapping[str, Sequence[ast.Name]]:
        """The uses of each name that nothing gives."""
        from ironloom.workload.scripts.undefined import undefined_names

        return undefined_names(self.tree, self.table, self.scopes)

    @cached_property
    def calls(self) -> Sequence[Call]:
        """Every call, in the order of the text."""
        return [
            Call(
                node=node,
                names=self.names.of(node.func),
                attribute=node.func.attr if isinstance(node.func, ast.Attribute) else "",
                arguments=self.values.arguments(node),
            )
            for node in self.nodes
            if isinstance(node, ast.Call)
        ]

    def calls_of(self, *names: str) -> Sequence[Call]:
        """The calls that may be of one of these full names."""
        # Whatever it is called by, a script that uses a name has its first and its last word in its text.
        ends = ((name, name.partition(".")[0], name.rpartition(".")[2]) for name in names)
        wanted = frozenset(name for name, first, last in ends if first in self.text and last in self.text)
        return [call for call in self.calls if call.names & wanted] if wanted else []

    def methods(self, *attributes: str) -> Sequence[Call]:
        """The calls of methods of these names, whatever they belong to."""
        wanted = frozenset(name for name in attributes if name in self.text)
        return [call for call in self.calls if call.attribute in wanted] if wanted else []

    @cached_property
    def modules(self) -> frozenset[str]:
        """The modules that it imports, in full: `torch.distributed.fsdp`; `.` and what follows for its neighbours."""
        found: set[str] = set()
        for node in self.nodes:
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add("." * node.level + (node.module or ""))
        return frozenset(found)

    @cached_property
    def packages(self) -> frozenset[str]:
        """The first words of those."""
        return frozenset("." if module.startswith(".") else module.partition(".")[0] for module in self.modules)

    def _offset(self, line: int, byte: int) -> int:
        """Characters into the text; the syntax tree counts the UTF-8 bytes of a line."""
        start = self._line_starts[line - 1]
        head = self.text[start : start + byte]
        if head.isascii():
            return start + byte
        return start + len(head.encode("utf-8")[:byte].decode("utf-8", "ignore"))

    @cached_property
    def _line_starts(self) -> Sequence[int]:
        """Where each line begins, lines as Python's tokenizer has them: \\n, \\r\\n and \\r end one."""
        starts = [0]
        at = 0
        while at < len(self.text):
            if self.text[at] == "\n" or (self.text[at] == "\r" and self.text[at + 1 : at + 2] != "\n"):
                starts.append(at + 1)
            at += 1
        return (*starts, len(self.text))
