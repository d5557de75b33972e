"""Where in a run a node stands: under which conditions, in which loops, in one process or in all of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from ironloom.workload.scripts.names import Names
from ironloom.workload.scripts.ranks import Guard, is_about_rank
from ironloom.workload.scripts.terms import FUNCTIONS, LOOPS

_MAX_CALLERS = 12


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
