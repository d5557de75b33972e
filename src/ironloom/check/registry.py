"""The rules there are, and which of them a word on the command line means."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module

from ironloom.check import rules
from ironloom.check.rule import RULES, Rule
from ironloom.errors import UsageError
from ironloom.workload.manifests.suggest import nearest

SCRIPTS, FLEET = "scripts", "fleet"
NEEDS: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(
        (
            "script_names", "serving_arguments", "serving_gpus", "serving_script", "training_checkpoint",
            "training_data", "training_environment", "training_frameworks", "training_launch", "training_loop",
            "training_saves", "training_sharding",
        ),
        frozenset({SCRIPTS}),
    ),
    **dict.fromkeys(("priorities", "queue"), frozenset({FLEET})),
    "cluster_queues": frozenset({"ClusterQueue", "Cohort"}),
    "flavors": frozenset({"ResourceFlavor", "Topology"}),
    "kserve_scaling": frozenset({"InferenceService"}),
    "llm_scaling": frozenset({"LLMInferenceService", "LLMInferenceServiceConfig"}),
    "namespace_quota": frozenset({FLEET, "LimitRange", "ResourceQuota"}),
    "ray_serve": frozenset({"RayService"}),
    "training_objects": frozenset({"ClusterTrainingRuntime", "JobSet", "TrainJob", "TrainingRuntime"}),
}  # fmt: skip
"""Modules of check/rules that a run of other things does not import: those of which every rule looks at scripts alone,
or needs a fleet, or passes over a run that has no document of these kinds. A module that is not here is always
imported; tests hold the table against the rules."""


def needed(*, kinds: frozenset[str], has_scripts: bool, has_fleet: bool) -> tuple[Rule, ...]:
    """The rules that may find something in a run of documents of these kinds, in the order of ids: all of them, less
    those of the modules that have nothing to look at."""
    for name in _module_names():
        if _is_needed(name, kinds, has_scripts=has_scripts, has_fleet=has_fleet):
            import_module(f"{rules.__name__}.{name}")
    return tuple(rule for _, rule in sorted(RULES.items()))


def _is_needed(module: str, kinds: frozenset[str], *, has_scripts: bool, has_fleet: bool) -> bool:
    needs = NEEDS.get(module)
    if needs is None:
        return True
    return bool(needs & kinds) or (has_scripts and SCRIPTS in needs) or (has_fleet and FLEET in needs)


@cache
def _module_names() -> tuple[str, ...]:
    return tuple(module.name for module in pkgutil.iter_modules(rules.__path__))


@cache
def load() -> Mapping[str, Rule]:
    """Every rule by its id, in the order of ids. The modules of check/rules are imported once."""
    for name in _module_names():
        import_module(f"{rules.__name__}.{name}")
    return dict(sorted(RULES.items()))


def of(rule_id: str) -> Rule:
    """The rule of an id, which is one. No module is imported where that of the rule is there already."""
    found = RULES.get(rule_id)
    return found if found is not None else load()[rule_id]


def find(word: str) -> Rule:
    """The rule of an id or a name, in any case. Raises UsageError."""
    by_word = {key.lower(): rule for rule in load().values() for key in (rule.id, rule.name)}
    found = by_word.get(word.lower())
    if found is None:
        near = nearest(word, by_word)
        did = f"; did you mean {by_word[near].id} ({by_word[near].name})?" if near else ""
        raise UsageError(f"There is no rule {word!r}{did}", hint="`ironloom explain` lists them all.")
    return found


def select(select: Iterable[str] = (), ignore: Iterable[str] = ()) -> tuple[Rule, ...]:
    """The rules that `select` names (none is all of them), less those that `ignore` names.

    A word is an id, the beginning of one (`IL2`), a rule's name, or a family. Raises UsageError for any other.
    """
    chosen = _named(select) or frozenset(load())
    return tuple(rule for rule in load().values() if rule.id in chosen - _named(ignore))


def _named(words: Iterable[str]) -> frozenset[str]:
    return frozenset(rule_id for word in words for rule_id in _of_word(word))


def _of_word(word: str) -> list[str]:
    plain = word.strip().lower()
    found = [
        rule.id
        for rule in load().values()
        if plain in (rule.name, rule.family) or (plain.startswith("il") and rule.id.lower().startswith(plain))
    ]
    if not plain or not found:
        known = {word for rule in load().values() for word in (rule.id, rule.name, rule.family)}
        near = nearest(plain, known)
        did = f"; did you mean {near!r}?" if near else ""
        raise UsageError(
            f"No rule is meant by {word!r}{did}",
            hint="a rule's id, the beginning of one (IL2), its name or its family; `ironloom explain` lists them",
        )
    return found
