"""The pages of docs/reference/rules, from the rules' own words."""

from __future__ import annotations

from collections.abc import Mapping

from ironloom.check import ignores, registry
from ironloom.check.rule import Rule


def index_page() -> str:
    """All rules by family, with a link to each one's page."""
    rules = list(registry.load().values())
    rows = ["# Rules of `ironloom check`", ""]
    rows += [
        f"{len(rules)} rules. `ironloom explain IL301` prints one, `--select` and `--ignore` take ids, beginnings of"
    ]
    rows += ["ids (`IL3`), names and families. Error: it cannot work; warning: it will cost you; note: good to know."]
    for family in dict.fromkeys(rule.family for rule in rules):
        rows += ["", f"## {family}", "", "| rule | severity | finds |", "|---|---|---|"]
        for rule in (rule for rule in rules if rule.family == family):
            fleet = " (with a fleet)" if rule.needs_fleet else ""
            rows.append(
                f"| [{rule.id}]({rule.id}.md) `{rule.name}` | {rule.severity.value} | {_cell(rule.summary)}{fleet} |"
            )
    return "\n".join(rows) + "\n"


def rule_page(rule: Rule) -> str:
    """What a rule finds, why, an example, the same mended, and what justifies it."""
    kind = "yaml" if "apiVersion:" in rule.bad else "python"
    fleet = " It needs a fleet (`--fleet`, `--context`)." if rule.needs_fleet else ""
    rows = [f"# {rule.id}: {rule.name}", ""]
    rows += [f"Finds {rule.summary}. Severity: {rule.severity.value}; family: {rule.family}.{fleet}", ""]
    rows += ["## Why", "", " ".join(rule.why.split()), ""]
    rows += ["## Example", "", f"```{kind}", rule.bad.strip("\n"), "```", ""]
    rows += ["## Mended", "", f"```{kind}", rule.good.strip("\n"), "```", ""]
    rows += ["## Sources", "", *(f"- [{source.shows}]({source.url})" for source in rule.sources), ""]
    rows += [ignores.how(rule)]
    return "\n".join(rows) + "\n"


def pages() -> Mapping[str, str]:
    """Each page's name below docs/, and its text."""
    made = {f"reference/rules/{rule.id}.md": rule_page(rule) for rule in registry.load().values()}
    return {"reference/rules/index.md": index_page(), **made}


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
