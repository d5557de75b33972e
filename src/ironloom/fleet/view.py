"""A fleet as plain data, for `-o json` and `-o yaml`."""

from __future__ import annotations

from typing import Any

from ironloom.fleet.model import Domain, Fleet, FleetNode, NodePool
from ironloom.fleet.supply import billing
from ironloom.fleet.tally import Tally, accelerators_of, problems_of, tally


def view(fleet: Fleet) -> dict[str, Any]:
    """Everything that the table shows, and each node."""
    return {
        "name": fleet.name,
        "source": fleet.source,
        "taken_at": fleet.taken_at or None,
        "version": fleet.version or None,
        **_counts(tally(fleet.nodes)),
        "accelerators": accelerators_of(fleet.nodes),
        "num_pods": len(fleet.pods),
        "num_pending_pods": sum(1 for pod in fleet.pods if not pod.node),
        "levels": [
            {"key": one.key, "name": one.name, "dialect": one.dialect, "confidence": one.confidence, "why": one.why}
            for one in fleet.levels
        ],
        "tree": _domain(fleet.root),
        "nodes": [_node(node) for node in fleet.nodes],
        "pools": [_pool(pool) for pool in fleet.pools],
        "queues": [
            {
                "name": queue.name,
                "cohort": queue.cohort or None,
                "is_active": queue.is_active,
                "quotas": [
                    {"flavor": one.flavor, "resource": one.resource, "nominal": one.nominal, "used": one.used,
                     "borrowing_limit": one.borrowing_limit, "lending_limit": one.lending_limit}
                    for one in queue.quotas
                ],
            }
            for queue in fleet.cluster_queues
        ],
    }  # fmt: skip


def _counts(counts: Tally) -> dict[str, int]:
    return {name: getattr(counts, name) for name in counts.__slots__}


def _domain(domain: Domain) -> dict[str, Any]:
    return {
        "level": domain.level.key if domain.level is not None else None,
        "value": domain.value,
        **_counts(tally(domain.all_nodes())),
        "domains": [_domain(child) for child in domain.children],
        "nodes": [node.name for node in domain.nodes],
    }


def _node(node: FleetNode) -> dict[str, Any]:
    return {
        "name": node.name,
        "lifecycle": node.lifecycle.value,
        "instance_type": node.instance_type or None,
        "pool": node.pool or None,
        "accelerator": node.accelerator or node.gpu_product or None,
        "gpu_resource": node.gpu_resource or None,
        "num_gpus": node.num_gpus,
        "expected_num_gpus": node.expected_num_gpus,
        "num_free_gpus": node.num_free_gpus,
        "allocatable": dict(node.allocatable),
        "allocated": dict(node.allocated),
        "taints": [{"key": one.key, "value": one.value, "effect": one.effect} for one in node.taints],
        "links": [
            {"kind": one.kind, "num_rails": one.num_rails, "gbit_per_s": one.gbit_per_s,
             "expected_gbit_per_s": one.expected_gbit_per_s, "source": one.source}
            for one in node.links
        ],
        "problems": list(problems_of(node)),
    }  # fmt: skip


def _pool(pool: NodePool) -> dict[str, Any]:
    return {
        "name": pool.name,
        "kind": pool.kind,
        "instance_types": list(pool.instance_types),
        "num_nodes": pool.num_nodes,
        "min_nodes": pool.min_nodes,
        "max_nodes": pool.max_nodes,
        "num_more": pool.num_more,
        "is_autoscaled": pool.is_autoscaled,
        "empty_for_s": pool.empty_for_s,
        "note": pool.note or None,
        "billing": billing(pool) or None,
    }
