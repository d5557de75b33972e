"""What each name of a script is bound to, and which of its bindings reach a use."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ironloom.workload.scripts.terms import COMPREHENSIONS, FUNCTIONS, LOOPS

_SHARED = (ast.expr_context, ast.operator, ast.boolop, ast.unaryop, ast.cmpop)
_BRANCHES = (*LOOPS, ast.If, ast.IfExp, ast.Try, ast.TryStar, ast.Match, ast.match_case, ast.ExceptHandler)
"""What may run a part of itself not at all."""


MAX_BINDINGS = 100
"""Of one name in one scope; which of more reach a use is not looked into."""


def children_of(node: ast.AST) -> list[tuple[ast.AST, str]]:
    """(child, part) of the nodes directly inside a node, in their order; contexts and operators left out."""
    found: list[tuple[ast.AST, str]] = []
    for name in node._fields:
        value = getattr(node, name, None)
        if type(value) is list:
            found += [(one, name) for one in value if isinstance(one, ast.AST) and not isinstance(one, _SHARED)]
        elif isinstance(value, ast.AST) and not isinstance(value, _SHARED):
            found.append((value, name))
    return found


class Kind(StrEnum):
    """How a name is bound."""

    IMPORT = "import"
    VALUE = "value"
    FUNCTION = "function"
    CLASS = "class"
    PARAMETER = "parameter"
    OTHER = "other"
    """Of a value that no expression is: a loop's item, an opened file, a sum with itself."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Binding:
    """One place at which a name gets a meaning."""

    name: str
    kind: Kind
    node: ast.AST
    """The name's own node, or the statement."""
    at: tuple[int, int]
    """Line and byte from which it holds."""
    value: ast.expr | None = None
    index: int | None = None
    """Of an unpacked value: which item."""
    dotted: str = ""
    """Of an import: the full name."""
    function: ast.AST | None = None
    """Of a parameter: whose."""


@dataclass(eq=False, slots=True)
class Scope:
    """A module, class, function or comprehension."""

    node: ast.AST
    parent: Scope | None
    bindings: dict[str, list[Binding]] = field(default_factory=dict)
    elsewhere: dict[str, bool] = field(default_factory=dict)
    """Names that it declares global (True) or nonlocal (False)."""

    @property
    def home(self) -> Scope:
        """The scope whose statements run when this one's do: a comprehension's is the one around it."""
        scope = self
        while isinstance(scope.node, COMPREHENSIONS) and scope.parent is not None:
            scope = scope.parent
        return scope

    def find(self, name: str) -> Scope | None:
        """The scope in which a name that is used here is bound."""
        scope: Scope | None = self
        is_first = True
        while scope is not None:
            if name in scope.elsewhere:
                scope = scope.owner(name)
                return scope if name in scope.bindings else None
            if name in scope.bindings and (is_first or not isinstance(scope.node, ast.ClassDef)):
                return scope
            is_first = is_first and isinstance(scope.node, COMPREHENSIONS)
            scope = scope.parent
        return None

    def owner(self, name: str) -> Scope:
        """The scope that a binding of this name, made here, belongs to."""
        declared = self.elsewhere.get(name)
        if declared is None:
            return self
        scope = self
        while scope.parent is not None:
            scope = scope.parent
            if not declared and isinstance(scope.node, FUNCTIONS) and name not in scope.elsewhere:
                return scope
        return scope


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Scopes:
    """All scopes of a script."""

    of_node: Mapping[ast.AST, Scope]
    """The scope in which each node is evaluated."""
    inside: Mapping[ast.AST, Scope]
    """By the node that makes a scope."""
    parents: Mapping[ast.AST, ast.AST]
    parts: Mapping[ast.AST, str]
    """Of the node around it, the part that each node stands in: `body`, `orelse`, `test`."""
    has_star_import: bool

    def definitions(self, node: ast.Name) -> list[Binding]:
        """The bindings that may be meant by a name where it is used; none where it is bound nowhere.

        Of the bindings before it, those since the last one that surely ran; in a loop, those after it as well; of an
        outer scope, all.
        """
        used_in = self.of_node.get(node)
        scope = used_in.find(node.id) if used_in is not None else None
        if scope is None or used_in is None:
            return []
        bindings = scope.bindings[node.id]
        if len(bindings) > MAX_BINDINGS:
            return [Binding(name=node.id, kind=Kind.OTHER, node=node, at=(node.lineno, node.col_offset))]
        if used_in.home is not scope.home or len(bindings) == 1:
            return list(bindings)
        return self._reaching(node, bindings)

    def _reaching(self, node: ast.Name, bindings: list[Binding]) -> list[Binding]:
        here = (node.lineno, node.col_offset)
        path = self.branches(node)
        found: list[Binding] = []
        for binding in sorted(bindings, key=lambda one: one.at, reverse=True):
            way = self.branches(binding.node)
            if binding.at > here:
                if any(isinstance(above, LOOPS) and above in way for above in path):
                    found.append(binding)
                continue
            if any(isinstance(above, ast.If) and path.get(above, part) != part for above, part in way.items()):
                continue
            found.append(binding)
            if all(path.get(above) == part for above, part in way.items()):
                break
        return found

    def branches(self, node: ast.AST) -> dict[ast.AST, str]:
        """The branches that a node stands in, innermost first, as {statement: its part}, up to its function."""
        found: dict[ast.AST, str] = {}
        above = self.parents.get(node)
        while above is not None and not isinstance(above, (*FUNCTIONS, ast.ClassDef)):
            if isinstance(above, _BRANCHES):
                part = self.parts.get(node, "")
                if part not in {"test", "iter", "subject"}:
                    # A loop's own variable is bound in each of its rounds.
                    found[above] = "body" if part == "target" else part
            node, above = above, self.parents.get(above)
        return found


def read_scopes(tree: ast.Module, parents: Mapping[ast.AST, ast.AST], parts: Mapping[ast.AST, str]) -> Scopes:
    """The scopes of a module."""
    root = Scope(node=tree, parent=None)
    of_node: dict[ast.AST, Scope] = {}
    inside: dict[ast.AST, Scope] = {tree: root}
    stack: list[tuple[ast.AST, Scope]] = [(tree, root)]
    order: list[ast.AST] = []
    while stack:
        node, scope = stack.pop()
        of_node[node] = scope
        order.append(node)
        if isinstance(node, ast.Global | ast.Nonlocal):
            scope.home.elsewhere |= dict.fromkeys(node.names, isinstance(node, ast.Global))
        if isinstance(node, (*FUNCTIONS, ast.ClassDef, *COMPREHENSIONS)):
            inner = inside[node] = Scope(node=node, parent=scope)
            here, within = _parts(node)
            stack.extend((child, inner) for child in reversed(within))
            stack.extend((child, scope) for child in reversed(here))
        else:
            stack.extend([(child, scope) for child, _ in reversed(children_of(node))])
    has_star = False
    for node in order:
        if type(node) not in _BINDING:
            continue
        scope = of_node[node]
        for binding in _bindings(node):
            if binding.name == "*":
                has_star = True
                continue
            home = inside[node] if isinstance(binding.function, FUNCTIONS) else scope
            if isinstance(node, ast.NamedExpr):
                home = home.home
            if isinstance(node, ast.comprehension):
                home = of_node[node]
            home.owner(binding.name).bindings.setdefault(binding.name, []).append(binding)
    return Scopes(of_node=of_node, inside=inside, parents=parents, parts=parts, has_star_import=has_star)


def _parts(node: ast.AST) -> tuple[list[ast.AST], list[ast.AST]]:
    """(evaluated in the scope around it, in its own) of a node that makes a scope."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        arguments = node.args
        parameters = _parameters(arguments)
        here: list[ast.AST | None] = [*arguments.defaults, *arguments.kw_defaults]
        if isinstance(node, ast.Lambda):
            return _some(here), [node.body]
        here = [*node.decorator_list, *here, *(one.annotation for one in parameters), node.returns]
        return _some(here), list(node.body)
    if isinstance(node, ast.ClassDef):
        return [*node.decorator_list, *node.bases, *node.keywords], list(node.body)
    generators: list[ast.comprehension] = getattr(node, "generators", [])
    rest = [child for child, _ in children_of(node) if child not in generators]
    return [], [*generators, *rest]


def _some(nodes: list[ast.AST | None]) -> list[ast.AST]:
    return [node for node in nodes if node is not None]


def _parameters(arguments: ast.arguments) -> list[ast.arg]:
    starred = [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *starred]


_BINDING = frozenset(
    {
        ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef, ast.Assign,
        ast.AnnAssign, ast.NamedExpr, ast.AugAssign, ast.For, ast.AsyncFor, ast.comprehension, ast.withitem,
        ast.ExceptHandler, ast.MatchAs, ast.MatchStar, ast.MatchMapping, ast.Delete,
    }
)  # fmt: skip


def _bindings(node: ast.AST) -> Iterator[Binding]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            # `import a.b` binds a; `import a.b as c` binds c to a.b.
            whole = alias.name if alias.asname else alias.name.partition(".")[0]
            name = alias.asname or whole
            yield Binding(name=name, kind=Kind.IMPORT, node=node, at=_end(node), dotted=whole)
    elif isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        for alias in node.names:
            dotted = f"{module}{'' if module.endswith('.') else '.'}{alias.name}"
            name = alias.asname or alias.name
            yield Binding(name=name, kind=Kind.IMPORT, node=node, at=_end(node), dotted=dotted)
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield Binding(name=node.name, kind=Kind.FUNCTION, node=node, at=_end(node))
        yield from _of_parameters(node)
    elif isinstance(node, ast.Lambda):
        yield from _of_parameters(node)
    elif isinstance(node, ast.ClassDef):
        yield Binding(name=node.name, kind=Kind.CLASS, node=node, at=_end(node))
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            yield from _of_target(target, node.value, _end(node))
    elif isinstance(node, ast.AnnAssign):
        if node.value is not None:
            yield from _of_target(node.target, node.value, _end(node))
    elif isinstance(node, ast.NamedExpr):
        yield from _of_target(node.target, node.value, _end(node))
    elif isinstance(node, ast.AugAssign | ast.For | ast.AsyncFor | ast.comprehension):
        yield from _of_target(node.target, None, None)
    elif isinstance(node, ast.withitem) and node.optional_vars is not None:
        yield from _of_target(node.optional_vars, None, None)
    elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
        if node.name is not None:
            yield Binding(name=node.name, kind=Kind.OTHER, node=node, at=(node.lineno, node.col_offset))
    elif isinstance(node, ast.MatchMapping) and node.rest is not None:
        yield Binding(name=node.rest, kind=Kind.OTHER, node=node, at=(node.lineno, node.col_offset))
    elif isinstance(node, ast.Delete):
        for target in node.targets:
            yield from _of_target(target, None, None)


def _of_parameters(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> Iterator[Binding]:
    for one in _parameters(node.args):
        is_starred = one in {node.args.vararg, node.args.kwarg}
        kind = Kind.OTHER if is_starred else Kind.PARAMETER
        yield Binding(name=one.arg, kind=kind, node=one, at=(one.lineno, one.col_offset), function=node)


def _of_target(
    target: ast.expr, value: ast.expr | None, at: tuple[int, int] | None, index: int | None = None
) -> Iterator[Binding]:
    """The names that an assignment to `target` binds; `value` is None where no expression is what they get."""
    if isinstance(target, ast.Name):
        kind = Kind.VALUE if value is not None else Kind.OTHER
        yield Binding(name=target.id, kind=kind, node=target, at=at or _end(target), value=value, index=index)
    elif isinstance(target, ast.Starred):
        yield from _of_target(target.value, None, at)
    elif isinstance(target, ast.Tuple | ast.List):
        is_deep = index is not None or any(isinstance(item, ast.Starred) for item in target.elts)
        for number, item in enumerate(target.elts):
            yield from _of_target(item, None if is_deep else value, at, number)


def _end(node: ast.AST) -> tuple[int, int]:
    return (getattr(node, "end_lineno", 0) or 0, getattr(node, "end_col_offset", 0) or 0)
