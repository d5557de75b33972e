"""The families that can be trained are those that users are told of."""

from __future__ import annotations

import re
from pathlib import Path

from ironloom.train.model.config import FAMILIES

GUIDE = Path(__file__).parents[3] / "docs/guides/training.md"


def test_the_guide_names_every_family_and_no_other() -> None:
    section = GUIDE.read_text().partition("## Which models\n")[2].partition("\n## ")[0]
    told = set(re.findall(r"`([a-z0-9_]+)`", section)) - {"model_type"}
    assert told == set(FAMILIES)
