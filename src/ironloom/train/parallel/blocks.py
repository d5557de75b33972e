"""Which parts of an unknown module are its blocks: the units that FSDP2 gathers one after the other.

Models keep what they repeat side by side, most in a ModuleList: the outermost of those are the blocks, as FSDP's own
guide wraps them (https://docs.pytorch.org/tutorials/intermediate/FSDP_tutorial.html). A part that shares a parameter
with what lies outside of it is none, as a parameter belongs to one unit alone; it stays with the root.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches

from torch import nn

from ironloom.errors import UsageError

_LISTS = (nn.ModuleList, nn.ModuleDict)
"""They hold modules and have no forward of their own, so that nothing would gather them."""
_Wanted = Callable[[bool, str, nn.Module], bool]


def find_blocks(module: nn.Module) -> tuple[str, ...]:
    """Names of the repeated parts, in the module's order: the outermost siblings of one class.

    Siblings with parts of their own that a list holds come first, then such as lie beside each other as attributes,
    then a list's single layers; the first of these that has at least half as many parameters as any of them. A single
    layer that is an attribute is never one: its weight may be used without its forward, which would not gather it.
    """
    apart = _Apart(module)

    def is_block(name: str, part: nn.Module) -> bool:
        return any(next(inner.parameters(), None) is not None for inner in part.children()) and apart(name, part)

    def is_layer(name: str, part: nn.Module) -> bool:
        return not list(part.children()) and apart(name, part)

    wanted: tuple[_Wanted, ...] = (
        lambda is_listed, name, part: is_listed and is_block(name, part),
        lambda _, name, part: is_block(name, part),
        lambda is_listed, name, part: is_listed and is_layer(name, part),
    )
    found = [_repeated(module, one) for one in wanted]
    sizes = [sum(_size(part) for _, part in parts) for parts in found]
    for parts, size in zip(found, sizes, strict=True):
        if size and 2 * size >= max(sizes):
            return tuple(name for name, _ in parts)
    return ()


def check_blocks(module: nn.Module, blocks: Sequence[str]) -> tuple[str, ...]:
    """The names that a user gave, the innermost first, as FSDP2 takes them.

    Raises UsageError for one that the module does not have, that has no forward, or whose weights are tied to others.
    """
    if isinstance(blocks, str):
        raise UsageError(f"blocks: {blocks!r} is one name", hint=f"a tuple of names: blocks=({blocks!r},)")
    parts = dict(module.named_modules(remove_duplicate=False))
    apart = _Apart(module)
    for name in blocks:
        if not name or name not in parts:
            near = get_close_matches(name, [one for one in parts if one], n=1)
            hint = f"did you mean {near[0]}?" if near else "names as module.named_modules() has them"
            raise UsageError(f"blocks: the module has no part {name!r}", hint=hint)
        if isinstance(parts[name], _LISTS):
            inner = ", ".join(repr(one) for one, _ in list(_members(f"{name}.", parts[name]))[:2])
            raise UsageError(f"blocks: {name} is a list and has no forward", hint=f"its members: {inner or 'none'} …")
        if next(parts[name].parameters(), None) is not None and not apart(name, parts[name]):
            raise UsageError(
                f"blocks: {name} shares a parameter with a part outside of it",
                hint="leave it out: tied weights stay with the root",
            )
    return tuple(sorted(dict.fromkeys(blocks), key=lambda name: -name.count(".")))


def sizes_of(module: nn.Module, blocks: tuple[str, ...]) -> list[int]:
    """Parameters of each block, without those of blocks before it that lie inside."""
    taken: set[int] = set()
    sizes = []
    for name in blocks:
        own = {id(p): p.numel() for p in module.get_submodule(name).parameters() if id(p) not in taken}
        taken |= own.keys()
        sizes.append(sum(own.values()))
    return sizes


class _Apart:
    """Whether a part has parameters and shares none with what lies outside of it."""

    def __init__(self, module: nn.Module) -> None:
        self._names: dict[int, list[str]] = {}
        for name, parameter in module.named_parameters(remove_duplicate=False):
            self._names.setdefault(id(parameter), []).append(name)

    def __call__(self, name: str, part: nn.Module) -> bool:
        inside = [self._names[id(parameter)] for parameter in part.parameters()]
        return bool(inside) and all(one.startswith(f"{name}.") for names in inside for one in names)


def _repeated(module: nn.Module, wanted: _Wanted, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """The outermost wanted parts with a sibling of their class; a list that has such gives its other wanted parts too,
    as layers of two kinds take turns in some models."""
    found: list[tuple[str, nn.Module]] = []
    for is_listed, parts in _siblings(prefix, module):
        classes = Counter(type(part) for name, part in parts if wanted(is_listed, name, part))
        has_repeated = any(number > 1 for number in classes.values())
        for name, part in parts:
            if classes[type(part)] > 1 - (is_listed and has_repeated) and wanted(is_listed, name, part):
                found.append((name, part))
            else:
                found += _repeated(part, wanted, f"{name}.")
    return found


def _siblings(prefix: str, module: nn.Module) -> Iterator[tuple[bool, list[tuple[str, nn.Module]]]]:
    """What lies beside each other below a module, and whether in a list: its attributes, and each list's members."""
    plain = [(f"{prefix}{name}", part) for name, part in module.named_children()]
    for name, part in plain:
        if isinstance(part, _LISTS):
            yield True, list(_members(f"{name}.", part))
    yield isinstance(module, nn.Sequential), [(name, part) for name, part in plain if not isinstance(part, _LISTS)]


def _members(prefix: str, listed: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """A list's members, and those of lists in it."""
    for name, part in listed.named_children():
        if isinstance(part, _LISTS):
            yield from _members(f"{prefix}{name}.", part)
        else:
            yield f"{prefix}{name}", part


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
