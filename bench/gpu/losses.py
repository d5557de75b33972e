"""How far losses of a training race lie apart: ours from torchtitan's, and each system's from its own.

    python bench/gpu/losses.py FOLDER/rows.jsonl

Reads the rows of plans `loss-noise` and `loss-exact` (race_plans.py). Of each pair with the same seed: the mean
absolute difference over all steps, and the mean one with its sign over the last half.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

Curves = dict[tuple[str, int], list[float]]


def curves(rows: Iterable[dict[str, Any]]) -> Curves:
    """The losses of each variant and seed; the last run of those that ran more than once."""
    found: Curves = {}
    for row in rows:
        if row["ok"] and row["losses"]:
            changed = [f"{name}={value}" for name, value in row["tweaks"].items()]
            if not row["is_compiled"] and row["compute_dtype"] != "float32":
                changed.append("not compiled")
            found[" ".join((row["system"], *changed)), row["seed"]] = row["losses"]
    return found


def apart(found: Curves, one: str, other: str) -> list[tuple[float, float]]:
    """Of each seed that both have: mean absolute difference, and the mean of `one` less `other` over the last half."""
    pairs = []
    for (name, seed), losses in found.items():
        if name == one and (other, seed) in found:
            steps = [a - b for a, b in zip(losses, found[other, seed], strict=True)]
            pairs.append((fmean(map(abs, steps)), fmean(steps[len(steps) // 2 :])))
    return pairs


def table(found: Curves) -> str:
    """Every pair of variants, as Markdown."""
    names = list(dict.fromkeys(name for name, _ in found))
    lines = ["| pair | seeds | mean absolute | signed, last half | of each seed |", "|---|---|---|---|---|"]
    for number, one in enumerate(names):
        for other in names[number + 1 :]:
            pairs = apart(found, one, other)
            if not pairs:
                continue
            signed = [sign for _, sign in pairs]
            spread = f" ± {stdev(signed):.4f}" if len(signed) > 1 else ""
            each = ", ".join(f"{sign:+.4f}" for sign in signed)
            mean = fmean(size for size, _ in pairs)
            lines.append(f"| {one}, {other} | {len(pairs)} | {mean:.6f} | {fmean(signed):+.6f}{spread} | {each} |")
    ends = [f"{name} seed {seed}: {losses[0]:.4f} to {losses[-1]:.4f}" for (name, seed), losses in found.items()]
    return "\n".join([*lines, "", *ends])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    options = parser.parse_args()
    print(table(curves(json.loads(line) for file in options.files for line in file.read_text().splitlines())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
