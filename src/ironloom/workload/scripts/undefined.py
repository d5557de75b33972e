"""Names that a script reads and nothing gives: neither the script, nor Python itself.

The scopes are the compiler's own (the module symtable), and order does not count: a name that is given anywhere in its
scope is given. So what is found here is a NameError in any run that comes to it.
"""

from __future__ import annotations

import ast
import builtins
import symtable
from collections.abc import Iterator, Mapping

from ironloom.workload.scripts.scopes import Scopes

_GIVEN = frozenset(dir(builtins)) | {
    "__annotations__", "__builtins__", "__cached__", "__class__", "__doc__", "__file__", "__loader__", "__name__",
    "__package__", "__path__", "__spec__", "__debug__", "WindowsError",
}  # fmt: skip
_NOTEBOOK = frozenset({"get_ipython", "display", "In", "Out", "spark", "sc", "dbutils", "displayHTML", "__IPYTHON__"})
"""What notebooks give to the scripts that are exported from them."""
_INSTALLED = frozenset({"_", "profile"})
"""What gettext and line_profiler put among the builtins."""
_PYTHON_2 = frozenset(
    {"unicode", "basestring", "long", "xrange", "raw_input", "reduce", "unichr", "file", "execfile", "cmp", "buffer"}
)
"""Builtins of Python 2, for which a script may have a branch of its own."""
_LEAVES = (ast.Return, ast.Raise, ast.Continue, ast.Break)
_ANYTHING = frozenset({"exec", "globals", "locals", "vars", "eval"})
"""With these a script may give itself any name."""


def undefined_names(tree: ast.Module, table: symtable.SymbolTable, scopes: Scopes) -> dict[str, list[ast.Name]]:
    """The uses of each undefined name, in the order of the text; empty where the script may get names from elsewhere
    (`from x import *`, exec, globals())."""
    if scopes.has_star_import or _ANYTHING & _called(scopes):
        return {}
    given = {symbol.get_name() for symbol in table.get_symbols() if _is_bound(symbol)}
    given |= {name for inner in _tables(table) for name in _declared_global(inner)}
    missing = {
        name
        for inner in _tables(table)
        for symbol in inner.get_symbols()
        if symbol.is_referenced() and _is_of_module(symbol, inner)
        for name in [symbol.get_name()]
    }
    missing -= given | _GIVEN | _NOTEBOOK | _INSTALLED
    if _asks_version(scopes):
        missing -= _PYTHON_2
    if not missing:
        return {}
    unseen = _unseen(tree, scopes)
    dead = _never_reached(scopes)
    found: dict[str, list[ast.Name]] = {}
    for node, scope in scopes.of_node.items():
        if not isinstance(node, ast.Name) or node.id not in missing or not isinstance(node.ctx, ast.Load):
            continue
        if scope.find(node.id) is not None or node in unseen or _is_inside(node, dead, scopes.parents):
            continue
        if isinstance(scope.node, ast.ClassDef) and scope.node.keywords:
            continue  # a metaclass may give names to the body
        if not _is_guarded(node, scopes.parents, scopes.parts):
            found.setdefault(node.id, []).append(node)
    for uses in found.values():
        uses.sort(key=lambda node: (node.lineno, node.col_offset))
    return dict(sorted(found.items(), key=lambda item: (item[1][0].lineno, item[1][0].col_offset)))


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    stack = [table]
    while stack:
        one = stack.pop()
        yield one
        stack.extend(one.get_children())


def _is_bound(symbol: symtable.Symbol) -> bool:
    return symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace() or symbol.is_annotated()


def _declared_global(table: symtable.SymbolTable) -> list[str]:
    return [one.get_name() for one in table.get_symbols() if one.is_declared_global() and _is_bound(one)]


def _is_of_module(symbol: symtable.Symbol, table: symtable.SymbolTable) -> bool:
    """Whether a name is looked for among the module's own."""
    if table.get_type() == "module":
        return True
    return symbol.is_global() or (table.get_type() == "class" and not symbol.is_free() and not _is_bound(symbol))


def _called(scopes: Scopes) -> set[str]:
    return {node.func.id for node in scopes.of_node if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}


def _asks_version(scopes: Scopes) -> bool:
    """Whether it looks at the version of Python that runs it."""
    names = {"version_info", "PY2", "PY3", "python_version"}
    return any(
        (isinstance(node, ast.Attribute) and node.attr in names) or (isinstance(node, ast.Name) and node.id in names)
        for node in scopes.of_node
    )


def _unseen(tree: ast.Module, scopes: Scopes) -> set[ast.AST]:
    """Names in annotations that are never evaluated, and those that are only deleted."""
    is_lazy = any(
        isinstance(node, ast.ImportFrom)
        and node.module == "__future__"
        and any(a.name == "annotations" for a in node.names)
        for node in tree.body
    )
    found: set[ast.AST] = set()
    for node in scopes.of_node:
        parts: list[ast.AST | None] = []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and is_lazy:
            arguments = node.args
            every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
            parts = [*(one.annotation for one in every if one is not None), node.returns]
        elif isinstance(node, ast.AnnAssign):
            # Of a local variable it is never evaluated, of another one not with the future import.
            is_local = isinstance(scopes.of_node[node].node, ast.FunctionDef | ast.AsyncFunctionDef)
            parts = [node.annotation] if is_lazy or is_local else []
        for part in parts:
            if part is not None:
                found.update(ast.walk(part))
    return found


def _is_guarded(node: ast.AST, parents: Mapping[ast.AST, ast.AST], parts: Mapping[ast.AST, str]) -> bool:
    """Whether it is tried, and its absence provided for."""
    above = parents.get(node)
    while above is not None:
        if isinstance(above, ast.Try) and parts.get(node) == "body" and any(_catches(one) for one in above.handlers):
            return True
        node, above = above, parents.get(above)
    return False


def _never_reached(scopes: Scopes) -> set[ast.AST]:
    """The statements after one that always leaves their block."""
    found: set[ast.AST] = set()
    for node in scopes.of_node:
        for name in ("body", "orelse", "finalbody"):
            block: list[ast.AST] = value if isinstance(value := getattr(node, name, None), list) else []
            leaves = (i for i, one in enumerate(block) if isinstance(one, _LEAVES))
            found.update(block[next(leaves, len(block)) + 1 :])
    return found


def _is_inside(node: ast.AST, wholes: set[ast.AST], parents: Mapping[ast.AST, ast.AST]) -> bool:
    above: ast.AST | None = node
    while wholes and above is not None:
        if above in wholes:
            return True
        above = parents.get(above)
    return False


def _catches(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    caught = {one.id for one in ast.walk(handler.type) if isinstance(one, ast.Name)}
    return bool(caught & {"NameError", "Exception", "BaseException", "UnboundLocalError"})
