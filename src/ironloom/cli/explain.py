"""`ironloom explain`: a rule in full, or the list of them."""

from __future__ import annotations

import contextlib

import click

from ironloom.check import ignores, registry
from ironloom.check.rule import Rule
from ironloom.cli.output import output_option, put, put_data, table
from ironloom.errors import UsageError


@click.command()
@click.argument("name", required=False, metavar="[RULE]")
@output_option("text", "json", "yaml", default="text")
def explain(name: str | None, output: str) -> None:
    """Explain a rule of check, or list them.

    What it finds, why, an example, the same mended, and what justifies it.

    RULE is an id such as IL204, or a name. A family, or the beginning of an
    id (IL2), lists its rules.
    """
    rules = _listed(name)
    if rules:
        if output != "text":
            put_data([as_object(rule) for rule in rules], output)
            return
        rows = [(rule.id, rule.family, rule.severity.value, rule.name, rule.summary) for rule in rules]
        put(table(("ID", "FAMILY", "SEVERITY", "NAME", "FINDS"), rows))
        return
    assert name is not None  # else all are listed
    rule = registry.find(name)
    if output != "text":
        put_data(as_object(rule), output)
    else:
        put(text(rule))


def _listed(name: str | None) -> tuple[Rule, ...]:
    """The rules of a family or of the beginning of an id, all of them without; none for what names a single rule."""
    if name is None:
        return registry.select()
    try:
        registry.find(name)
    except UsageError:
        with contextlib.suppress(UsageError):
            return registry.select([name])
    return ()


def as_object(rule: Rule) -> dict[str, object]:
    """A rule's words as JSON has them."""
    return {
        "id": rule.id,
        "name": rule.name,
        "family": rule.family,
        "severity": rule.severity.value,
        "needs_fleet": rule.needs_fleet,
        "summary": rule.summary,
        "why": rule.why,
        "bad": rule.bad,
        "good": rule.good,
        "sources": [{"url": source.url, "shows": source.shows} for source in rule.sources],
    }


def text(rule: Rule) -> str:
    """A rule for a person who reads a terminal."""
    import textwrap

    parts = [
        f"{rule.id} {rule.name}\n{rule.severity.value}, family {rule.family}"
        + (", with a fleet only" if rule.needs_fleet else ""),
        textwrap.fill(f"Finds {rule.summary}.", 100),
        textwrap.fill(" ".join(rule.why.split()), 100),
        "Example:\n\n" + textwrap.indent(rule.bad.strip("\n"), "    "),
        "Mended:\n\n" + textwrap.indent(rule.good.strip("\n"), "    "),
        "Sources:\n" + "\n".join(f"  {source.url}\n    {source.shows}" for source in rule.sources),
        ignores.how(rule),
    ]
    return "\n\n".join(parts)
