"""Where in a run a node stands: under which conditions, in which loops, in one process or in all of them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ironloom.workload.scripts.names import Names
from ironloom.workload.scripts.scopes import FUNCTIONS, LOOPS

_PREFIX = "(?:get_|my_|cur_|current_|this_|global_|local_|node_|group_|dist_|ddp_|fsdp_|dp_|tp_|pp_|cp_|mp_|ep_|world_)"
_RANK = re.compile(rf"^_?{_PREFIX}*(?:rank|rank_id|proc_id|process_id|process_index)$", re.I)
_MAIN = re.compile(
    r"^_?(?:is_)?(?:local_|global_|world_)?(?:main|master|primary|first|zero|rank)_?(?:process|rank|proc|node|zero|0)$"
    r"|^_?is_(?:main|master|chief|first_process|global_zero|local_zero)$"
)
_MAX_CALLERS = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Guard:
    """A condition that a node stands under."""

    test: ast.expr
    holds: bool
    """Whether it must be true, or false."""


class Flow:
    """The statements around the nodes of one script."""

    def __init__(self, names: Names, nodes: Sequence[ast.AST]) -> None:
        self._names = names
        self._parents = names.scopes.parents
        self._nodes = nodes

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        """The nodes that this one stands in, innermost first."""
        above = self._parents.get(node)
        while above is not None:
            yield above
            above = self._parents.get(above)

    def function(self, node: ast.AST) -> ast.AST | None:
        """The function that it stands in; None for the module."""
        return next((above for above in self.above(node) if isinstance(above, FUNCTIONS)), None)

    def statement(self, node: ast.AST) -> ast.stmt:
        """The statement that it is a part of."""
        if isinstance(node, ast.stmt):
            return node
        return next(above for above in self.above(node) if isinstance(above, ast.stmt))

    def guards(self, node: ast.AST) -> list[Guard]:
        """The conditions of the `if`s around it in its function, innermost first."""
        found: list[Guard] = []
        for above in self.above(node):
            if isinstance(above, FUNCTIONS):
                break
            if isinstance(above, ast.If) and node is not above.test:
                found.append(Guard(test=above.test, holds=self._names.scopes.parts.get(node) == "body"))
            elif isinstance(above, ast.IfExp) and node is not above.test:
                found.append(Guard(test=above.test, holds=node is above.body))
            node = above
        return found

    def rank_guard(self, node: ast.AST) -> Guard | None:
        """The condition by which some processes come to it and others do not; None where there is none to be seen."""
        return next((guard for guard in self.guards(node) if is_about_rank(guard.test)), None)

    def loops(self, node: ast.AST) -> list[ast.For | ast.AsyncFor | ast.While]:
        """The loops around it, innermost first, those around the calls of its function among them where it has one
        caller alone."""
        found: list[ast.For | ast.AsyncFor | ast.While] = []
        for _ in range(_MAX_CALLERS):
            function: ast.AST | None = None
            for above in self.above(node):
                if isinstance(above, FUNCTIONS):
                    function = above
                    break
                if isinstance(above, LOOPS) and not self._is_outside(node, above):
                    found.append(above)
                node = above
            callers = self._names.calls_of_function.get(function, []) if function is not None else []
            if len(callers) != 1:
                break
            node = callers[0]
        return found

    def _is_outside(self, node: ast.AST, loop: ast.For | ast.AsyncFor | ast.While) -> bool:
        """Whether a child of a loop runs once: what it goes over, and its else."""
        part = self._names.scopes.parts.get(node)
        return part == "orelse" or (part == "iter" and not isinstance(loop, ast.While))

    def is_on_import(self, node: ast.AST) -> bool:
        """Whether it runs when the file is imported: at the top, and not under `if __name__ == "__main__"`."""
        if self.function(node) is None:
            return not any(is_main_guard(guard.test) for guard in self.guards(node))
        return False

    def has_entry(self) -> bool:
        """Whether the script is one to be started: it has the guard, or its work at the top."""
        return any(isinstance(node, ast.If) and is_main_guard(node.test) for node in self._nodes)


def is_main_guard(test: ast.expr) -> bool:
    """`__name__ == "__main__"`."""
    return any(isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(test))


def is_about_rank(test: ast.AST) -> bool:
    """Whether a condition is true in some processes of a job and false in others, by the names that it asks."""
    return any(is_rank_name(word) for word in words(test))


def is_rank_name(word: str) -> bool:
    return _RANK.search(word) is not None or _MAIN.match(word) is not None


def is_for_first_rank(guard: Guard) -> bool | None:
    """Whether only rank 0 comes through a guard (True), or only the others (False); None where neither is sure."""
    test, holds = guard.test, guard.holds
    while isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        test, holds = test.operand, not holds
    if isinstance(test, ast.BoolOp):
        # Of `rank == 0 and x` only rank 0 comes through; who does not is not known.
        if isinstance(test.op, ast.And) and holds:
            sides = [is_for_first_rank(Guard(test=part, holds=True)) for part in test.values if is_about_rank(part)]
            return sides[0] if sides else None
        return None
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        zero = test.comparators[0]
        if not (isinstance(zero, ast.Constant) and zero.value == 0 and type(zero.value) is int):
            return None
        if isinstance(test.ops[0], ast.Eq):
            return holds
        if isinstance(test.ops[0], ast.NotEq | ast.Gt):
            return not holds
        return None
    last = next(iter(words(test)), "")
    if _MAIN.match(last):
        return holds
    return not holds if _RANK.search(last) else None


def words(test: ast.AST) -> Iterator[str]:
    """The names in an expression: of a chain `a.b.c` the last, of a call what it calls."""
    stack: list[ast.AST] = [test]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            yield str(node.slice.value).lower()
            stack.append(node.value)
        elif isinstance(node, ast.Call):
            stack.append(node.func)
            stack.extend(reversed(node.args))
        else:
            stack.extend(reversed(list(ast.iter_child_nodes(node))))
