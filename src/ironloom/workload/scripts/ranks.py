"""Who comes through a condition: rank 0, the others, or all alike; by the names that it asks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import msgspec

_PREFIX = "(?:get_|my_|cur_|current_|this_|global_|local_|node_|group_|dist_|ddp_|fsdp_|dp_|tp_|pp_|cp_|mp_|ep_|world_)"
_RANK = re.compile(rf"^_?{_PREFIX}*(?:rank|rank_id|proc_id|process_id|process_index)$", re.I)
_MAIN = re.compile(
    r"^_?(?:is_)?(?:local_|global_|world_)?(?:main|master|primary|first|zero|rank)_?(?:process|rank|proc|node|zero|0)$"
    r"|^_?is_(?:main|master|chief|first_process|global_zero|local_zero)$"
)


class Guard(msgspec.Struct, frozen=True, kw_only=True):
    """A condition that a node stands under."""

    test: ast.expr
    holds: bool
    """Whether it must be true, or false."""


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
