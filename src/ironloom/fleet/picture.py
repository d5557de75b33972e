"""A fleet as a picture: an SVG of domains as boxes in boxes, nodes in them, and a square for each GPU.

Filled is used, outlined is free, grey is closed, a cross is broken: the picture can be read without its colours. Each
node has a title, which browsers show under the pointer. No script, no font, no link to anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from ironloom.fleet.model import Domain, Fleet, FleetNode
from ironloom.fleet.tally import problems_of, summary, tally_node

SQUARE, STEP, COLUMNS = 6, 8, 4
"""Side of a GPU's square, distance to the next, squares a row."""
MAX_SQUARES = 16
"""A node with more pieces than this (slices of GPUs) is drawn as a bar."""
PAD, LABEL_HEIGHT, CHAR_WIDTH = 6, 14, 5.6
WIDTH = 1180
NODE_WIDTH = COLUMNS * STEP + 4
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_STYLE = (
    "text{font:10px system-ui,sans-serif;fill:#222}.h{font-size:14px}"
    ".d{fill:#fff;stroke:#9aa3ad}.d1{fill:#f4f6f8;stroke:#9aa3ad}"
    ".n{fill:#fff;stroke:#d5dade}.w{stroke:#b3261e}"
    ".u{fill:#1f5f99}.f{fill:#fff;stroke:#2e7d32}.c{fill:#b9bec4}.b{fill:none;stroke:#b3261e;stroke-width:1.6}"
)
_LEGEND = (("u", "used"), ("f", "free"), ("c", "closed"), ("b", "broken"))


@dataclass(frozen=True, slots=True)
class _Box:
    """Something with a size that can be drawn at a place."""

    width: float
    height: float
    draw: Callable[[float, float, list[str]], None]


def render(fleet: Fleet) -> str:
    """The SVG document. The same for any order of the nodes."""
    body = _domain(fleet.root, WIDTH, 0)
    top = 46
    width, height = max(body.width, 560) + 2 * PAD, body.height + top + PAD
    said = _text(summary(fleet))
    size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"><title>{said}</title><style>{_STYLE}</style>']
    out.append(f'<text class="h" x="{PAD}" y="18">{said}</text>')
    x = float(PAD)
    for kind, word in _LEGEND:
        out.append(f'<path class="{kind}" d="{_mark(kind, x, 28)}"/><text x="{x + 10:g}" y="35">{word}</text>')
        x += 60
    where = f"from {fleet.source}" + (f", taken {fleet.taken_at}" if fleet.taken_at else "")
    out.append(f'<text x="{x + 10:g}" y="35">{_text(where)}</text>')
    body.draw(PAD, top, out)
    out.append("</svg>\n")
    return "".join(out)


def _domain(domain: Domain, room: float, depth: int) -> _Box:
    """A domain with what is in it; the root has no box of its own."""
    is_root = domain.level is None
    inner_room = room if is_root else room - 2 * PAD
    parts = [_domain(child, inner_room, depth + 1) for child in domain.children]
    parts += [_node(node) for node in domain.nodes]
    inside = _flow(parts, inner_room)
    if is_root:
        return inside
    assert domain.level is not None
    name = f"{domain.level.name} {domain.value}"
    width = max(inside.width, 40) + 2 * PAD
    height = inside.height + LABEL_HEIGHT + 2 * PAD
    label = _fitting(name, width - 2 * PAD)

    def draw(x: float, y: float, out: list[str]) -> None:
        out.append(
            f'<g><title>{_text(name)}</title><rect class="d{depth % 2 or ""}" x="{x:g}" y="{y:g}" width="{width:g}"'
            f' height="{height:g}" rx="3"/><text x="{x + PAD:g}" y="{y + LABEL_HEIGHT - 1:g}">{_text(label)}</text></g>'
        )
        inside.draw(x + PAD, y + LABEL_HEIGHT + PAD, out)

    return _Box(width, height, draw)


def _flow(parts: Sequence[_Box], room: float) -> _Box:
    """Parts side by side, in rows that fit the room."""
    placed: list[tuple[float, float, _Box]] = []
    x = y = row_height = width = 0.0
    room = _evened(parts, room)
    for part in parts:
        if x and x + part.width > room:
            x, y, row_height = 0.0, y + row_height + PAD, 0.0
        placed.append((x, y, part))
        x += part.width + PAD
        row_height = max(row_height, part.height)
        width = max(width, x - PAD)

    def draw(left: float, top: float, out: list[str]) -> None:
        for x, y, part in placed:
            part.draw(left + x, top + y, out)

    return _Box(width, y + row_height, draw)


def _evened(parts: Sequence[_Box], room: float) -> float:
    """The room that these parts take: a block and no long row where they are few, with rows of about equal length."""
    if not parts:
        return room
    widest = max(part.width for part in parts) + PAD
    block = (sum((part.width + PAD) * (part.height + PAD) for part in parts) * 3) ** 0.5
    in_a_row = max(1, int((min(room, max(widest, block)) + PAD) / widest))
    num_rows = -(-len(parts) // in_a_row)
    return -(-len(parts) // num_rows) * widest


def _node(node: FleetNode) -> _Box:
    counts = tally_node(node)
    states = {"u": counts.num_used, "f": counts.num_free, "c": counts.num_closed, "b": counts.num_broken}
    rows = max(1, -(-min(counts.num_gpus, MAX_SQUARES) // COLUMNS))
    height = rows * STEP + 4
    problems = problems_of(node)
    title = f"{node.name}: {_kind(node)}" + (f", {'; '.join(problems)}" if problems else "")
    box = "n w" if problems else "n"

    def draw(x: float, y: float, out: list[str]) -> None:
        out.append(
            f'<g><title>{_text(title)}</title><rect class="{box}" x="{x:g}" y="{y:g}" width="{NODE_WIDTH}"'
            f' height="{height}" rx="2"/>'
        )
        if counts.num_gpus > MAX_SQUARES:
            out.extend(_bar(states, x + 3, y + 3, height - 6))
        else:
            out.extend(_squares(states, x + 3, y + 3))
        out.append("</g>")

    return _Box(NODE_WIDTH, height, draw)


def _kind(node: FleetNode) -> str:
    counts = tally_node(node)
    if not counts.num_gpus:
        return node.instance_type or "no GPUs"
    kind = node.accelerator or node.gpu_product or node.gpu_resource
    return f"{counts.num_gpus} × {kind}, {counts.num_used} used, {counts.num_free} free"


def _squares(states: Mapping[str, int], x: float, y: float) -> Iterable[str]:
    """A square for each GPU, row by row, those of one state together."""
    first = 0
    for kind, count in states.items():
        places = range(first, first + count)
        marks = "".join(_mark(kind, x + index % COLUMNS * STEP, y + index // COLUMNS * STEP) for index in places)
        if marks:
            yield f'<path class="{kind}" d="{marks}"/>'
        first += count


def _bar(states: Mapping[str, int], x: float, y: float, height: float) -> Iterable[str]:
    """A share of the width for each state."""
    whole, total = NODE_WIDTH - 6, sum(states.values())
    for kind, count in states.items():
        width = whole * (count / total)
        if count:
            yield f'<path class="{kind}" d="M{x:g} {y:g}h{width:.1f}v{height:g}h-{width:.1f}z"/>'
        x += width


def _mark(kind: str, x: float, y: float) -> str:
    """The path of one GPU: a square, or a cross."""
    if kind == "b":
        return f"M{x:g} {y:g}l{SQUARE} {SQUARE}m0 -{SQUARE}l-{SQUARE} {SQUARE}"
    return f"M{x:g} {y:g}h{SQUARE}v{SQUARE}h-{SQUARE}z"


def _fitting(text: str, width: float) -> str:
    room = max(1, int(width / CHAR_WIDTH))
    return text if len(text) <= room else f"{text[: max(1, room - 1)]}…"


def _text(text: str) -> str:
    return escape(_NOT_XML.sub("\ufffd", text))
