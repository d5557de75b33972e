"""Puts the raw lines of training races into one result file, under bench/results/gpu if nothing else is said.

Its fields are as the run had them, so that whatever is fitted to the rows need not know tweaks: `checkpointing` and
`is_compiled` are those in force, and `tweaks` says which of them were asked for beside the race's setting.

python bench/gpu/collect.py NAME --command "…" FOLDER/rows.jsonl …
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results/gpu"
DROPPED = {"text", "weights", "pid", "profile"}
"""Of a row: paths and process ids, which mean nothing elsewhere."""


def in_force(row: dict[str, Any]) -> dict[str, Any]:
    """A tweak stands for its field, and Hugging Face's Trainer compiles LoRA only where it is told to."""
    tweaks = row["tweaks"]
    compiles = row["is_compiled"] and not (row["system"] == "transformers" and row["lora_rank"])
    return {
        **row,
        "checkpointing": tweaks.get("checkpointing", row["checkpointing"]),
        "is_compiled": tweaks.get("compiled", compiles),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--command", action="append", required=True)
    parser.add_argument("--date", required=True)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--machine", required=True)
    parser.add_argument("--folder", type=Path, default=RESULTS)
    parser.add_argument("files", type=Path, nargs="+")
    options = parser.parse_args()
    rows = []
    for file in options.files:
        for line in file.read_text().splitlines():
            row = {name: value for name, value in json.loads(line).items() if name not in DROPPED}
            if "tweaks" in row:
                row["tweaks"] = {name: value for name, value in row["tweaks"].items() if name not in DROPPED}
            rows.append(in_force(row) if "tweaks" in row else row)
    head = {"command": options.command, "date": options.date, "commit": options.commit, "machine": options.machine}
    lines = ",\n    ".join(json.dumps(row, ensure_ascii=False) for row in rows)
    text = json.dumps(head, indent=2)[:-2] + f',\n  "rows": [\n    {lines}\n  ]\n}}\n'
    (options.folder / f"{options.name}.json").write_text(text)
    print(f"{options.name}: {len(rows)} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
