"""What a label dialect is: which node labels say where a node stands, what it carries, and how it does."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import IntEnum, StrEnum

import msgspec

from ironloom.fleet.model import Lifecycle, Link

Labels = Mapping[str, str]
NVLINK_DOMAIN = "NVLink domain"
"""Name of a level whose nodes share one NVLink domain, whoever labels it."""
NVLINK_PARTITION = "NVLink partition"
"""Name of a level whose nodes may share memory over NVLink: a part of a domain, or all of it."""


class Rank(IntEnum):
    """How near to the node a kind of level is; coarse is small. Levels of one dialect keep their own order."""

    REGION = 0
    ZONE = 10
    HALL = 15
    FABRIC = 20
    SUPERPOD = 30
    SPINE = 40
    LEAF = 60
    RACK = 70
    NVLINK = 80
    PARTITION = 85
    MACHINE = 90
    HOST = 100


class Axis(StrEnum):
    """Which order of the fleet a level belongs to. Of the network and of NVLink one dialect is enough: see levels."""

    PLACE = "place"
    """Regions, zones, halls, racks: where the metal stands."""
    NETWORK = "network"
    """Switches between nodes."""
    NVLINK = "nvlink"
    """Nodes whose GPUs share one NVLink domain."""


class LevelKey(msgspec.Struct, frozen=True, kw_only=True):
    """A node label that names a domain."""

    key: str
    name: str
    """What it is in words."""
    rank: int
    axis: Axis
    same_as: str = ""
    """Another key that says the same: this one counts only where no node has that one."""
    is_open: bool = False
    """Its meaning differs between clusters and is read from the data."""


class LevelPattern(msgspec.Struct, frozen=True, kw_only=True):
    """A family of labels of no fixed depth: `fabric.topograph.run/tier-N`."""

    pattern: re.Pattern[str]
    """Its group 1 is the tier, 0 nearest to the node."""
    name: str
    """With `{tier}`."""
    nearest_rank: int
    axis: Axis

    def level(self, key: str) -> LevelKey | None:
        """The level that a key of this family is; None for any other key."""
        found = self.pattern.fullmatch(key)
        if found is None:
            return None
        tier = int(found[1])
        return LevelKey(key=key, name=self.name.format(tier=tier), rank=self.nearest_rank - tier, axis=self.axis)


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What a dialect says of a node's state."""

    lifecycle: Lifecycle
    why: str


def _says_nothing(_labels: Labels) -> None:
    return None


def _no_links(_labels: Labels) -> tuple[Link, ...]:
    return ()


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """One family of labels, with the page that describes it."""

    name: str
    title: str
    levels: tuple[LevelKey, ...] = ()
    """Coarse to fine, each nested in the one before it."""
    patterns: tuple[LevelPattern, ...] = ()
    products: tuple[str, ...] = ()
    """Labels whose value is what the GPU is called."""
    memory_mib: str = ""
    """Label: memory of one GPU in MiB."""
    memory_gb: str = ""
    """Label: the same in GB."""
    num_gpus: str = ""
    """Label: how many GPUs the node found."""
    pool: str = ""
    """Label: the pool of nodes that supplies it."""
    health: Callable[[Labels], Health | None] = _says_nothing
    conditions_true: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Conditions that mean a broken node when they are True, and what they mean."""
    conditions_false: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Conditions that mean a broken node when they are False."""
    draining_taints: tuple[str, ...] = ()
    """Taint keys by which it moves pods away before it takes the node."""
    links: Callable[[Labels], tuple[Link, ...]] = _no_links
    sources: tuple[str, ...]
    date: str
    """When the sources were read."""
