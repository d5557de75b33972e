"""How many connections a limit on open files carries."""

from __future__ import annotations

import resource

import pytest

from ironloom.server import descriptors


@pytest.mark.parametrize(
    ("limit", "connections"),
    [(1024, 448), (65_536, 32_704), (256, 64), (100, 16)],
    ids=["usual", "raised", "low", "absurd"],
)
def test_each_client_counts_twice(limit: int, connections: int) -> None:
    assert descriptors.num_connections(limit) == connections


@pytest.mark.parametrize(
    ("soft", "hard", "becomes"),
    [
        (1024, 1_048_576, 65_536),
        (1024, 4096, 4096),
        (100_000, 1_048_576, 100_000),
        (1024, resource.RLIM_INFINITY, 65_536),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 65_536),
    ],
)
def test_the_soft_limit_is_raised_never_lowered(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, becomes: int
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    assert descriptors.raise_limit() == becomes
    assert asked == ([(becomes, hard)] if soft != resource.RLIM_INFINITY and soft < becomes else [])
