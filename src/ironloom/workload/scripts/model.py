"""A script: its syntax tree, and where each part of it stands in the text."""

from __future__ import annotations

import ast
import symtable
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ironloom.workload.manifests.nodes import NOWHERE, Place


@dataclass(frozen=True, kw_only=True, eq=False)
class Script:
    """One Python file, parsed and never run."""

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
    def nodes(self) -> Sequence[ast.AST]:
        """Every node, in the order of the text, without recursion."""
        found: list[ast.AST] = []
        stack: list[ast.AST] = [self.tree]
        while stack:
            node = stack.pop()
            found.append(node)
            stack.extend(reversed(list(ast.iter_child_nodes(node))))
        return found

    @cached_property
    def parents(self) -> Mapping[ast.AST, ast.AST]:
        """The node that each node stands in. Contexts and operators, which nodes share, are left out."""
        return {
            child: node
            for node in self.nodes
            for child in ast.iter_child_nodes(node)
            if not isinstance(child, ast.expr_context | ast.operator | ast.boolop | ast.unaryop | ast.cmpop)
        }

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
