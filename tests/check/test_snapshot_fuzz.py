"""Whatever a snapshot says, it ends in a fleet or in a sentence: a share of what bench/check/fuzz_snapshots.py does."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from bench.check.fuzz_snapshots import Target, failure
from bench.check.minimise import minimised, minimised_text
from bench.check.mutate_snapshots import mutated

from ironloom.fleet.snapshot import read_snapshot


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    made = Target()
    yield made
    made.close()


@pytest.mark.parametrize("seed", range(2))
def test_snapshots_changed_at_random_end_in_a_fleet_or_a_sentence(target: Target, seed: int) -> None:
    random_ = random.Random(seed)
    counts: Counter[str] = Counter()
    for found, data in islice(mutated(target.seed, random_), 40):
        assert failure(target, found, data, random_.sample(target.examples, 2), counts) == "", data
    assert counts["read"] > 5
    assert counts["refused"] > 5


def test_what_goes_wrong_is_told_with_its_place(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_objects: Any, **_words: Any) -> None:
        raise ZeroDivisionError("none")

    monkeypatch.setattr("bench.check.fuzz_snapshots.build_fleet", broken)
    said = failure(target, target.seed, b"{}", [], Counter())
    assert said.startswith("ZeroDivisionError at test_snapshot_fuzz.py:")


@pytest.mark.parametrize("name", ["9" * 5000, "n" + "1" * 4301 + "x", "٣" * 5000])
def test_a_name_of_more_digits_than_a_number_has_is_a_name(tmp_path: Path, name: str) -> None:
    nodes = [{"apiVersion": "v1", "kind": "Node", "metadata": {"name": one}} for one in (name, "n2", "n10")]
    path = tmp_path / "fleet.json"
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": nodes}))
    found = [node.name for node in read_snapshot([path]).nodes]
    assert name in found
    assert found.index("n2") < found.index("n10")


def test_an_input_that_fails_is_cut_down_to_what_fails() -> None:
    text = "".join(f"line {number}\n" for number in range(300))
    assert minimised_text(text, lambda some: "line 7\n" in some and "line 251\n" in some) == "line 7\nline 251\n"
    assert minimised(range(100), lambda some: sum(some) >= 99) == [99]
