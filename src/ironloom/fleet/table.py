"""A fleet as text: its domains with what is used, free and broken in them; nodes that are not well; pools; queues."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ironloom.fleet.amounts import is_gpu
from ironloom.fleet.model import Domain, Fleet, FleetNode, Level, NodePool
from ironloom.fleet.supply import billing
from ironloom.fleet.tally import Tally, problems_of, summary, tally, tally_node, walk

MAX_DOMAINS = 60
"""Rows of domains: a deeper level is shown only where all of it is within this."""
MAX_NODES = 40
MAX_PROBLEMS = 20
MAX_WAITING = 10
_COUNTS = ("NODES", "GPUS", "USED", "FREE", "CLOSED", "BROKEN", "FREE NODES")


def render(fleet: Fleet, *, wide: bool = False) -> str:
    """The whole text, without a last newline. `wide` lists every domain and every node."""
    source = "standard input" if fleet.source == "-" else fleet.source
    where = f"From {source}" + (f", taken {fleet.taken_at}" if fleet.taken_at else "") + "."
    parts = [f"{summary(fleet)}.", where, "", _domains(fleet, wide=wide)]
    for title, text in (
        ("Levels", _levels(fleet.levels)),
        ("Not well", _problems(fleet.nodes, wide=wide)),
        ("Waiting", _waiting(fleet)),
        ("Pools", _pools(fleet.pools)),
        ("Queues", _queues(fleet)),
    ):
        if text:
            parts += ["", title, text]
    return "\n".join(parts)


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns three blanks apart; those of numbers stand to the right."""
    if not rows:
        return ""
    to_right = [
        all(_is_count(row[index]) for row in rows) and any(row[index] != "-" for row in rows)
        for index in range(len(head))
    ]
    widths = [max(len(row[index]) for row in (head, *rows)) for index in range(len(head))]
    return "\n".join(
        "   ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, to_right, strict=True)
        ).rstrip()
        for row in (head, *rows)
    )


def _is_count(cell: str) -> bool:
    return cell == "-" or cell.replace(",", "").isdecimal()


def _domains(fleet: Fleet, *, wide: bool) -> str:
    every = list(walk(fleet.root))
    depth = max((one for one, _ in every), default=0)
    if not wide:
        while depth > 0 and sum(1 for one, _ in every if one <= depth) > MAX_DOMAINS:
            depth -= 1
    shows_nodes = wide or (len(fleet.nodes) <= MAX_NODES and depth == max(one for one, _ in every))
    rows = []
    for one, domain in every:
        if one > depth:
            continue
        rows.append((f"{'  ' * one}{_called(domain)}", *_counts(tally(domain.all_nodes())), ""))
        if shows_nodes:
            rows += [
                (f"{'  ' * (one + 1)}{node.name}", *_counts(tally_node(node), of_one=True), _kind(node))
                for node in domain.nodes
            ]
    shown = columns(("DOMAIN", *_COUNTS, "KIND") if shows_nodes else ("DOMAIN", *_COUNTS),
                    rows if shows_nodes else [row[:-1] for row in rows])  # fmt: skip
    hidden = sum(1 for one, _ in every if one > depth)
    return f"{shown}\n… {hidden:,} more domains below: -o wide" if hidden else shown


def _called(domain: Domain) -> str:
    return f"{domain.level.name} {domain.value}" if domain.level is not None else domain.value


def _kind(node: FleetNode) -> str:
    return node.accelerator or node.gpu_product or node.instance_type


def _counts(counts: Tally, *, of_one: bool = False) -> tuple[str, ...]:
    numbers = (counts.num_gpus, counts.num_used, counts.num_free, counts.num_closed, counts.num_broken)
    nodes = ("-",) if of_one else (f"{counts.num_nodes:,}",)
    whole = ("-",) if of_one else (f"{counts.num_whole_free:,}",)
    return (*nodes, *(f"{number:,}" for number in numbers), *whole)


def _levels(levels: Sequence[Level]) -> str:
    rows = [(one.name, one.key, one.dialect, f"{one.confidence:.0%}", one.why) for one in levels]
    return columns(("LEVEL", "LABEL", "DIALECT", "SURE", "WHY"), rows)


def _problems(nodes: Iterable[FleetNode], *, wide: bool) -> str:
    rows = [(node.name, problem) for node in nodes for problem in problems_of(node)]
    shown = rows if wide else rows[:MAX_PROBLEMS]
    text = columns(("NODE", "WHAT"), shown)
    return f"{text}\n… {len(rows) - len(shown):,} more: -o wide" if len(rows) > len(shown) else text


def _waiting(fleet: Fleet) -> str:
    """Pods that wait, by what they wait for together."""
    groups: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for pod in fleet.pods:
        if not pod.node:
            gpus = sum(count for name, count in pod.requests.items() if is_gpu(name))
            key = (pod.workload or f"{pod.namespace}/{pod.owner.rpartition('/')[2] or pod.name}", pod.scheduling_gates)
            group = groups.setdefault(key, [0, 0])
            group[0] += 1
            group[1] += gpus
    rows = [
        (name, f"{count:,}", f"{gpus:,}", ", ".join(gates) or "-")
        for (name, gates), (count, gpus) in sorted(groups.items(), key=lambda item: (-item[1][1], item[0]))
    ]
    text = columns(("WORKLOAD", "PODS", "GPUS", "GATES"), rows[:MAX_WAITING])
    return f"{text}\n… {len(rows) - MAX_WAITING:,} more" if len(rows) > MAX_WAITING else text


def _pools(pools: Sequence[NodePool]) -> str:
    rows = [
        (
            pool.name,
            pool.kind,
            ", ".join(pool.instance_types[:3]) + (" …" if len(pool.instance_types) > 3 else "") or "-",
            f"{pool.num_nodes:,}",
            "-" if pool.min_nodes is None else f"{pool.min_nodes:,}",
            "-" if pool.max_nodes is None else f"{pool.max_nodes:,}",
            "-" if pool.num_more is None else f"{pool.num_more:,}",
            pool.note,
        )
        for pool in pools
    ]
    text = columns(("POOL", "KIND", "TYPE", "NODES", "MIN", "MAX", "COULD COME", "NOTE"), rows)
    bills = [f"{said}." for pool in pools if (said := billing(pool))]
    return "\n".join((text, *bills[:5])) if text else ""


def _queues(fleet: Fleet) -> str:
    rows = [
        (queue.name, queue.cohort or "-", one.flavor, one.resource, f"{one.nominal:,}", f"{one.used:,}",
         "-" if one.borrowing_limit is None else f"{one.borrowing_limit:,}")
        for queue in fleet.cluster_queues
        for one in queue.quotas
        if one.resource not in ("cpu", "memory")
    ]  # fmt: skip
    return columns(("QUEUE", "COHORT", "FLAVOR", "RESOURCE", "NOMINAL", "USED", "MAY BORROW"), rows)
