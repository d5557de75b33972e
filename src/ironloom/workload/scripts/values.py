"""What an expression is worth before the script runs: constants, what names stand for, and the arguments of calls."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ironloom.workload.scripts.names import MAX_DEPTH, Names
from ironloom.workload.scripts.scopes import Kind
from ironloom.workload.scripts.terms import UNKNOWN

_SUMS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
_MAX_TEXT = 10_000
_CHANGES = frozenset({"update", "pop", "setdefault", "clear", "append", "extend", "insert", "remove", "popitem"})
"""Methods after which a list or dictionary is another than it was written as."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """What a call passes, dictionaries behind `**` opened where the script writes them out."""

    positional: tuple[ast.expr, ...]
    named: Mapping[str, ast.expr]
    places: Mapping[str, ast.AST]
    """Where each name stands: the keyword, or the dictionary's key."""
    is_open: bool
    """Whether it passes more, or other values, than can be seen."""

    def get(self, name: str, position: int | None = None) -> ast.expr | None:
        """An argument by its name, or its position where it may be passed so; None where it is not seen."""
        if name in self.named:
            return self.named[name]
        if position is not None and position < len(self.positional):
            return self.positional[position]
        return None

    def lacks(self, name: str, position: int | None = None) -> bool:
        """Whether it surely is not passed."""
        return not self.is_open and self.get(name, position) is None


class Values:
    """The values of one script's expressions."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._changed = _changed(names)
        self._defaults = _parser_defaults(names)
        self._depth = 0
        self._found: dict[ast.AST, Any] = {}

    def of(self, node: ast.AST | None) -> Any:
        """The constant that an expression is in every run: a number, text, bool, None, list, tuple or dict; an item
        of those that is not known is UNKNOWN, as is the whole where nothing is."""
        if node is None or self._depth > MAX_DEPTH:
            return UNKNOWN
        if node not in self._found:
            self._found[node] = UNKNOWN  # what is defined by itself
            self._depth += 1
            try:
                self._found[node] = self._find(node)
            finally:
                self._depth -= 1
        return self._found[node]

    def is_changed(self, name: str) -> bool:
        """Whether a list or dictionary of this name is changed after it was written."""
        return name in self._changed

    def usual(self, node: ast.AST | None) -> Any:
        """As `of`, and for an option of the command line its default."""
        value = self.of(node)
        if value is UNKNOWN and node is not None:
            option = self._option(node)
            return self.of(self._defaults[option]) if option in self._defaults else UNKNOWN
        return value

    def text(self, node: ast.AST | None) -> str | None:
        """The text that an expression is, `{}` for what of it is not known; None where it may be no text."""
        node = self.origin(node)
        if isinstance(node, ast.JoinedStr):
            return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        value = self.of(node)
        return value if isinstance(value, str) else None

    def origin(self, node: ast.AST | None) -> ast.AST | None:
        """The expression behind names: that which was assigned or passed, as far as there is one alone."""
        for _ in range(MAX_DEPTH):
            if not isinstance(node, ast.Name):
                break
            definitions = self._names.definitions(node)
            if len(definitions) != 1:
                break
            binding = definitions[0]
            if binding.kind is Kind.VALUE and binding.value is not None:
                if binding.index is None:
                    node = binding.value
                    continue
                value = binding.value
                if not isinstance(value, ast.Tuple | ast.List) or binding.index >= len(value.elts):
                    break
                node = value.elts[binding.index]
            elif binding.kind is Kind.PARAMETER:
                passed = self._names.passed(binding) or []
                if len(passed) != 1:
                    break
                node = passed[0]
            else:
                break
        return node

    def arguments(self, call: ast.Call) -> Arguments:
        """What a call passes."""
        named: dict[str, ast.expr] = {}
        places: dict[str, ast.AST] = {}
        is_open = any(isinstance(one, ast.Starred) for one in call.args)
        for keyword in call.keywords:
            if keyword.arg is not None:
                named[keyword.arg], places[keyword.arg] = keyword.value, keyword
                continue
            entries = self._entries(keyword.value)
            is_open = is_open or entries is None
            for key, place, value in entries or ():
                named[key], places[key] = value, place
        positional: list[ast.expr] = []
        for one in call.args:
            if isinstance(one, ast.Starred):
                break
            positional.append(one)
        return Arguments(positional=tuple(positional), named=named, places=places, is_open=is_open)

    def _entries(self, node: ast.expr) -> list[tuple[str, ast.AST, ast.expr]] | None:
        """(key, its place, value) of a dictionary that the script writes out; None for any other."""
        if isinstance(node, ast.Name) and node.id in self._changed:
            return None
        whole = self.origin(node)
        if isinstance(whole, ast.Call) and self._names.one(whole.func) == "dict" and not whole.args:
            if any(keyword.arg is None for keyword in whole.keywords):
                return None
            return [(keyword.arg, keyword, keyword.value) for keyword in whole.keywords if keyword.arg is not None]
        if not isinstance(whole, ast.Dict):
            return None
        found: list[tuple[str, ast.AST, ast.expr]] = []
        for key, value in zip(whole.keys, whole.values, strict=True):
            name = self.of(key)
            if key is None or not isinstance(name, str):
                return None
            found.append((name, key, value))
        return found

    def _find(self, node: ast.AST) -> Any:
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return self._of_name(node)
        if isinstance(node, ast.List | ast.Tuple):
            items = [_flat(self.of(item)) for item in node.elts]
            if any(isinstance(item, ast.Starred) for item in node.elts):
                return UNKNOWN
            return items if isinstance(node, ast.List) else tuple(items)
        if isinstance(node, ast.Dict):
            return self._of_dict(node)
        if isinstance(node, ast.UnaryOp):
            return _unary(node.op, self.of(node.operand))
        if isinstance(node, ast.BinOp):
            return _sum(node.op, self.of(node.left), self.of(node.right))
        if isinstance(node, ast.IfExp):
            first, second = self.of(node.body), self.of(node.orelse)
            return first if _is_same(first, second) else UNKNOWN
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else UNKNOWN for part in node.values]
            return UNKNOWN if UNKNOWN in parts else "".join(str(part) for part in parts)
        return UNKNOWN

    def _of_name(self, node: ast.Name) -> Any:
        if node.id in self._changed:
            return UNKNOWN
        values: list[Any] = []
        for binding in self._names.definitions(node):
            if binding.kind is Kind.VALUE:
                whole = self.of(binding.value)
                if binding.index is not None:
                    is_long = isinstance(whole, tuple | list) and binding.index < len(whole)
                    whole = whole[binding.index] if is_long else UNKNOWN
                values.append(whole)
            elif binding.kind is Kind.PARAMETER and (passed := self._names.passed(binding)) is not None:
                values += [self.of(value) for value in passed]
            else:
                return UNKNOWN
        return values[0] if values and all(_is_same(values[0], value) for value in values) else UNKNOWN

    def _of_dict(self, node: ast.Dict) -> Any:
        keys = [self.of(key) for key in node.keys]
        if any(not isinstance(key, str | int) for key in keys):
            return UNKNOWN
        return dict(zip(keys, (_flat(self.of(value)) for value in node.values), strict=True))

    def _option(self, node: ast.AST) -> str | None:
        """`tp` of `args.tp`, where args is what a parser gave."""
        node = self.origin(node) or node
        if isinstance(node, ast.Attribute) and any(
            name.startswith("argparse.ArgumentParser().parse_") for name in self._names.of(node.value)
        ):
            return node.attr
        return None


def _flat(value: Any) -> Any:
    """A value as an item of another: two levels are enough, and lists of lists of themselves grow without bound."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return UNKNOWN if any(isinstance(part, list | tuple | dict) for part in parts) else value


def _unary(sign: ast.unaryop, value: Any) -> Any:
    if isinstance(sign, ast.Not) and value is not UNKNOWN:
        return not value
    if isinstance(value, int | float):
        return -value if isinstance(sign, ast.USub) else value if isinstance(sign, ast.UAdd) else UNKNOWN
    return UNKNOWN


def _sum(sign: ast.operator, left: Any, right: Any) -> Any:
    both_text = isinstance(left, str) and isinstance(right, str) and isinstance(sign, ast.Add)
    both_numbers = isinstance(left, int | float) and isinstance(right, int | float)
    work = _SUMS.get(type(sign))
    if work is None or not (both_text or both_numbers):
        return UNKNOWN
    if both_text and len(left) + len(right) > _MAX_TEXT:
        return UNKNOWN
    if both_numbers and max(abs(left), abs(right)) > 2**63:
        return UNKNOWN
    try:
        return work(left, right)
    except ArithmeticError:
        return UNKNOWN


def _is_same(left: Any, right: Any) -> bool:
    return left is not UNKNOWN and type(left) is type(right) and bool(left == right)


def _changed(names: Names) -> frozenset[str]:
    """Names of lists and dictionaries that are changed after they were written."""
    found = set()
    for node in names.scopes.of_node:
        if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            target: ast.expr = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _CHANGES:
            target = node.func.value
        elif isinstance(node, ast.AugAssign):
            target = node.target
        else:
            continue
        if isinstance(target, ast.Name):
            found.add(target.id)
    return frozenset(found)


def _parser_defaults(names: Names) -> dict[str, ast.expr]:
    """The defaults of options that `add_argument` calls declare, by the attribute that they come as."""
    found: dict[str, ast.expr] = {}
    for node in names.scopes.of_node:
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr != "add_argument":
            continue
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        said = keywords.get("dest") or next(
            (one for one in node.args if isinstance(one, ast.Constant) and str(one.value).startswith("--")), None
        )
        if isinstance(said, ast.Constant) and "default" in keywords:
            found[str(said.value).lstrip("-").replace("-", "_")] = keywords["default"]
    return found
