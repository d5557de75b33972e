"""The documents and the code say the same: generated pages are current, links lead somewhere, names are explained."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def docs_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_script", ROOT / "scripts" / "docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = docs_script()
GENERATED: dict[str, str] = SCRIPT.pages()
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


@pytest.mark.parametrize("name", sorted(GENERATED))
def test_a_generated_page_is_what_the_code_says(name: str) -> None:
    assert (DOCS / name).read_text() == GENERATED[name], f"docs/{name} is not current: run make docs"


def test_no_page_tells_of_a_rule_that_is_gone() -> None:
    there = {f"reference/rules/{path.name}" for path in (DOCS / "reference" / "rules").glob("*.md")}
    assert there <= GENERATED.keys(), "run make docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target or target.startswith(("#", "mailto:")):
            continue
        path = (page.parent / target.partition("#")[0]).resolve()
        assert path.exists(), f"{page.relative_to(ROOT)} links to {target}, which is not there"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page: Path) -> None:
    for target in re.findall(r"`((?:docs|bench|scripts|tests|src)/[\w./-]+\.(?:md|py|json|sh))`", page.read_text()):
        assert (ROOT / target).exists(), f"{page.relative_to(ROOT)} names {target}, which is not there"


def test_every_decision_has_its_four_parts() -> None:
    for page in sorted((DOCS / "decisions").glob("*.md")):
        headings = " ".join(re.findall(r"^#+ (.*)$", page.read_text(), re.M)).lower()
        for part in ("context", "choice", "alternatives", "change our mind"):
            assert part in headings, f"{page.name} has no part on {part}"


def test_every_outcome_and_error_code_is_explained() -> None:
    text = (DOCS / "reference" / "events.md").read_text() + (DOCS / "reference" / "errors.md").read_text()
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            assert all(cells), f"an empty cell: {line}"
