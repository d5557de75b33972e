"""What is said of services and runs before a cluster gets them: what `check` finds in them, and the room that there is
now. Read with the user's own rights, which may be less than what is to be known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ironloom.cli.cluster_runs import fleet_of
from ironloom.cli.folded import folded, named
from ironloom.cli.output import plural, say
from ironloom.workload.serving import Serving

if TYPE_CHECKING:
    from ironloom.backends.kubernetes.rendering import Rendered
    from ironloom.check.finding import Finding
    from ironloom.check.inputs import Inputs
    from ironloom.cli.train_cluster import Looked
    from ironloom.fleet.model import Fleet
    from ironloom.workload.manifests.schema import Schema


def judge(
    context: str,
    files: Sequence[Path],
    servings: Sequence[Serving],
    made: Sequence[Rendered],
    runs: Looked | None = None,
    *,
    is_whole: bool = False,
) -> int:
    """Say what is found, and what room each service has; how many findings are errors. `made` is what the cluster would
    get of `servings`, `runs` what of training runs; with `is_whole` nothing is folded that is the same of many. Raises
    ClusterError where the cluster cannot be read at all."""
    from ironloom.check.inputs import read_paths
    from ironloom.workload.manifests.files import STDIN

    fleet = runs.fleet if runs is not None else fleet_of(context)
    written = read_paths([path for path in files if str(path) != STDIN])
    objects: dict[str, Sequence[dict[str, Any]]] = {
        serving.name: one.objects for serving, one in zip(servings, made, strict=True)
    }
    objects |= {one.run.name: one.objects for one in (runs.runs if runs is not None else ())}
    schema = runs.schema if runs is not None else None
    num_errors = say_found(findings(written, objects, fleet, schema), is_whole=is_whole)
    rooms = (
        (serving.name, words)
        for serving, rendered in zip(servings, made, strict=True)
        for words in room(serving.name, rendered, fleet)
    )
    for names, words in folded(rooms, is_whole=is_whole):
        say(f"  room: {named(names)}{', each alone' if len(names) > 1 else ''}: {words}")
    return num_errors


def say_found(found: Sequence[Finding], *, is_whole: bool = False) -> int:
    """Each in a line, what proves it under it, those of the same words together unless `is_whole`; how many are
    errors."""
    said = (
        (f"{one.file}:{one.line}:{one.column}", (f"{one.severity.value} {one.rule}", one.message, one.evidence))
        for one in found
    )
    for places, (rule, message, evidence) in folded(said, is_whole=is_whole):
        say(f"  {rule}: {named(places)}: {message}")
        for proof in evidence:
            say(f"    {proof}")
    return sum(one.severity.value == "error" for one in found)


def findings(
    written: Inputs, made: Mapping[str, Sequence[dict[str, Any]]], fleet: Fleet, schema: Schema | None = None
) -> list[Finding]:
    """What is wrong with the manifests as written, without what the cluster's form of them mends, and what is wrong
    with that form alone. `made` is that form, by name; a fleet without nodes is one that may not be seen."""
    from ironloom.check import registry
    from ironloom.check.engine import Setting, check
    from ironloom.check.ignores import UNUSED

    setting = Setting(fleet=fleet if fleet.nodes else None, schema=schema)
    by_file = {f"{name} (as applied)": objects for name, objects in made.items()}
    applied = check(_inputs(by_file, _with_ignores(by_file)), None, setting)
    rules = {finding.rule for finding in applied.findings}
    # Which ignores are of no use is known once every rule has run; else what the form mends need not be looked for.
    asked = None if UNUSED in rules else tuple(map(registry.of, sorted(rules)))
    found = check(written, asked, setting)
    kept = [finding for finding in found.findings if finding.rule in rules]
    known = {finding.rule for finding in (*kept, *found.ignored)}
    files = {finding.file for finding in applied.findings if finding.rule not in known}
    if applied.faults:
        files = set(by_file)
    if files:
        applied = check(_inputs(by_file, files | _with_ignores(by_file)), None, setting)
    return [*kept, *(finding for finding in applied.findings if finding.rule not in known)]


def _inputs(made: Mapping[str, Sequence[dict[str, Any]]], files: Set[str]) -> Inputs:
    """Objects by the file that they are as. Those of `files` are written out, so that each part has its place; writing
    takes five times as long as the check."""
    from ironloom.check.inputs import Inputs
    from ironloom.workload.manifests import dump_yaml
    from ironloom.workload.manifests.document import document
    from ironloom.workload.manifests.nodes import from_object

    inputs = Inputs()
    for file, objects in made.items():
        if file in files:
            inputs.add(file, dump_yaml(list(objects)))
        else:
            inputs.documents += [document(from_object(one), file) for one in objects]
    return inputs


def _with_ignores(made: Mapping[str, Sequence[dict[str, Any]]]) -> set[str]:
    """The files with objects that want a rule ignored, which is by lines."""
    from ironloom.check.ignores import ANNOTATION

    return {
        file
        for file, objects in made.items()
        if any(ANNOTATION in (one["metadata"].get("annotations") or {}) for one in objects)
    }


def room(service: str, made: Rendered, fleet: Fleet) -> Iterator[str]:
    """How many replicas the nodes take now beside all that they have, as far as nodes decide; nothing where no node is
    known, and of pods that ask for no GPU."""
    from ironloom.place.fit import fit
    from ironloom.workload.kinds import workloads_of
    from ironloom.workload.manifests.document import document
    from ironloom.workload.manifests.nodes import from_object

    if not fleet.nodes:
        return
    one: dict[str, Any] = made.objects[0]
    for workload in workloads_of([document(from_object(one), service)]).workloads[:1]:
        pods = max(workload.pod_sets, key=lambda pod_set: pod_set.gpus()[1])
        if not pods.gpus()[1]:
            return
        nodes = fit(pods, fleet, namespace=str(one["metadata"].get("namespace") or "default"))
        number = nodes.num_pods // max(1, workload.num_pods)
        yield f"{plural(number, 'replica') if number else 'no replica'} more would find a place now; {nodes}"
