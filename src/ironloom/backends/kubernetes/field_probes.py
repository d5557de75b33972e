"""What each ground does with a field of a manifest, found by doing it: the manifest is read and rendered with the field
and without. docs/reference/grounds.md is written from this, so that it says what the code does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Final

import msgspec

from ironloom.backends.kubernetes.field_values import BASES, TRAINING_BASES, Base, Object
from ironloom.backends.kubernetes.pods import NOT_PARKED
from ironloom.backends.kubernetes.render import kserve, llm, multi_node, plain, training
from ironloom.backends.kubernetes.training_pods import run_pods
from ironloom.errors import EngineUnavailable, ManifestError
from ironloom.workload.manifests.applied import MANIFEST
from ironloom.workload.manifests.read import parse_object, parse_objects
from ironloom.workload.manifests.schema import Path, path_text
from ironloom.workload.serving import Ground, Scaling, Serving
from ironloom.workload.training_job import TrainingJob

_NOT_COMPARED = frozenset({"manifest", "not_honoured", "annotations", "labels", "model_place", "extra_manifests"})
"""Of a Serving or TrainingJob: what a field may be in without doing anything."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What is done with one field: what stands in its row."""

    field: str
    cells: tuple[str, ...]


GATEWAYS = frozenset(f"scaling.{one.name}" for one in fields(Scaling)) | {"timeout_s"}
"""Settings that gateway and autoscaler follow, wherever replicas run."""
NOTHING: Final = "nothing to do"
LEFT_OUT: Final = "not in the objects"


def found(base: Base) -> Iterator[Found]:
    """What is done with each field that is tried in a manifest of a service: on one machine, in a cluster, in one with
    KServe."""
    before = parse_object(base.manifest)
    rendered = {ground: _rendered(before, ground) for ground in Ground}
    for name, probe in zip(_names(base), base.tried, strict=True):
        try:
            after = parse_object(probe.set_in(base.manifest))
            made = {ground: _rendered(after, ground) for ground in Ground}
        except (ManifestError, EngineUnavailable) as error:
            yield Found(field=name, cells=(f"refused: *{error.message}*",) * 3)
            continue
        changed = _changed(before, after)
        own = [one for one in changed if one in GATEWAYS and one != "scaling.park_for_s"]
        followed = f"the gateway: {_settings(own)}" if own else ""
        told = {ground: _told(after, before, probe.path, ground, made[ground], rendered[ground]) for ground in Ground}
        objects = "the objects" if made[Ground.PLAIN][0] != rendered[Ground.PLAIN][0] else ""
        of_plain = [one for one in (objects, followed, told[Ground.PLAIN]) if one]
        cells = (
            _joined(_settings(changed), told[Ground.LOCAL]),
            "; ".join(of_plain) or LEFT_OUT,
            _of_kserve(after, followed, told[Ground.KSERVE]),
        )
        yield Found(field=name, cells=cells)


def found_of_run(base: Base) -> Iterator[Found]:
    """What is done with each field that is tried in a manifest of a training run: on one machine, in a cluster that has
    its kind, as a JobSet, as a Job."""
    before = run_of(base.manifest)
    rendered = {target: objects_of_run(base.manifest, target) for target in targets_of(before)}
    for name, probe in zip(_names(base), base.tried, strict=True):
        manifest = probe.set_in(base.manifest)
        after = run_of(manifest)
        known = {note.message for note in before.not_honoured}
        told = _italic((one.message for one in after.not_honoured if one.message not in known), probe.path)
        cells = [_joined(_settings(_changed(before, after)), told)]
        for target in training.Target:
            if target not in rendered:
                continue
            made = objects_of_run(manifest, target)
            changed = "the objects" if made != rendered[target] else LEFT_OUT
            cells.append("as written" if target == after.kind != training.Target.TRAIN_JOB else changed)
        yield Found(field=name, cells=tuple(cells))


def run_of(manifest: Object) -> TrainingJob:
    """The training run that a manifest asks for. Raises ManifestError."""
    [job] = parse_objects([manifest]).trainings
    return job


def targets_of(job: TrainingJob) -> tuple[training.Target, ...]:
    """What a run of its kind becomes: itself, a JobSet, a Job."""
    return tuple(dict.fromkeys((training.Target(job.kind), training.Target.JOB_SET, training.Target.JOB)))


def objects_of_run(manifest: Object, target: training.Target) -> list[Object]:
    """Its objects, without the manifest that they carry. Raises UsageError."""
    made = training.objects(run_pods(manifest), training.Setting(target=target, namespace="default"))
    for one in made:
        one["metadata"].get("annotations", {}).pop(MANIFEST, None)
    return made


def _names(base: Base) -> list[str]:
    """Of its probes, each with the value where a field is tried with several."""
    texts = [str(one.path[-1]) if one.path[0] == "metadata" else path_text(one.path) for one in base.tried]
    return [
        f"`{text}`" if texts.count(text) == 1 else f"`{text}` as `{msgspec.json.encode(one.value).decode()}`"
        for text, one in zip(texts, base.tried, strict=True)
    ]


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part) or NOTHING


def _changed(before: Serving | TrainingJob, after: Serving | TrainingJob) -> list[str]:
    """Settings that the field is, by their names."""
    names = []
    for one in fields(before):
        old, new = getattr(before, one.name), getattr(after, one.name)
        if one.name == "scaling":
            names += [
                f"scaling.{two.name}" for two in fields(Scaling) if getattr(old, two.name) != getattr(new, two.name)
            ]
        elif old != new and one.name not in _NOT_COMPARED:
            names.append(one.name)
    return names


def _settings(changed: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in changed)


def _told(after: Serving, before: Serving, path: Path, ground: Ground, made: _Rendered, made_before: _Rendered) -> str:
    """What is said of the field there, without its name, which stands beside it."""
    known = {note.message for note in before.notes_on(ground)}
    notes = after.notes_on(ground)
    told = [one.message for one in notes if one.message not in known or one.path.startswith(path_text(path))]
    return _italic((*told, *(one for one in made[1] if one not in made_before[1])), path)


def _italic(told: Iterable[str], path: Path) -> str:
    shown = [one.partition(": ")[2] or one for one in told]
    shown = [one.removeprefix(f"{path[-1]}: ").removeprefix(f"{str(path[-1]).rpartition('/')[2]} ") for one in shown]
    return f"*{'; '.join(dict.fromkeys(shown))}*" if shown else ""


_Rendered = tuple[list[Object], list[str]]


def _rendered(serving: Serving, ground: Ground) -> _Rendered:
    """Its objects on a ground, and what is said of how they were made; none of replicas that are processes."""
    setting = plain.Setting()
    if ground is Ground.LOCAL:
        return [], []
    told = [NOT_PARKED] if serving.scaling.park_for_s else []
    if ground is Ground.KSERVE and serving.kind == "InferenceService":
        theirs = kserve.Runtime(name="theirs", formats=frozenset({"huggingface"}))
        return kserve.objects(serving, setting, kserve.Found(runtimes=(theirs,))), [*setting.notes, *told]
    if ground is Ground.KSERVE and serving.kind == llm.KIND:
        return llm.objects(serving, setting), [*setting.notes, *told]
    span = multi_node.span_of(serving)
    made = multi_node.objects(serving, setting, span) if span else plain.objects(serving, setting)
    for one in made:
        one["metadata"].pop("annotations", None)
    return made, [*setting.notes, *told]


def _of_kserve(after: Serving, followed: str, told: str) -> str:
    if after.kind not in {"InferenceService", llm.KIND}:
        return "as in a cluster"
    return _joined("as written", followed if after.kind == "InferenceService" else "", told)


_INTRODUCTION = """# What is done with each field, by where a service or a run is

*One machine*: replicas and ranks are processes; names of settings are those of `Serving` or `TrainingJob`. *A cluster*:
Ironloom makes the objects, a Deployment or a LeaderWorkerSet with a Service. *KServe*: the manifest goes to the cluster
as it is written, and KServe makes its pods. What the gateway follows, it follows wherever replicas run. What is said of
a field at an apply stands in italics.

A training run is in a cluster what the cluster has: its own kind, a JobSet, or a Job.

The manifest itself stays whole: objects that Ironloom makes carry it in the annotation `{manifest}`, and `ironloom
apply -f` of such an object, from `kubectl get -o yaml`, is an apply of that manifest.

This page is made by reading and rendering a manifest with each field and without: every field of the kinds down to
pods and containers, each of their fields as a whole. Fields with which the same is done share a row. A field that a
value alone tells apart stands there with it.
"""


def reference_page() -> str:
    """docs/reference/grounds.md."""
    rows = [_INTRODUCTION.format(manifest=MANIFEST)]
    told: dict[str, frozenset[Found]] = {}
    for base in BASES:
        every = tuple(found(base))
        told[base.title] = frozenset(every)
        shown = [one for one in every if one not in told.get(base.like, ())]
        where = f", where it is not as {base.like}" if base.like else ""
        rows += [f"## {base.title}{where}", "", *_table(("one machine", "a cluster", "KServe"), shown), ""]
    for base in TRAINING_BASES:
        kinds = [f"a {target}" for target in targets_of(run_of(base.manifest))]
        rows += [f"## {base.title}", "", *_table(("one machine", *kinds), found_of_run(base)), ""]
    return "\n".join(rows).rstrip("\n") + "\n"


def _table(heads: tuple[str, ...], every: Iterable[Found]) -> list[str]:
    by_cells: dict[tuple[str, ...], list[str]] = {}
    for one in every:
        by_cells.setdefault(one.cells, []).append(one.field)
    lines = [f"| field | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for cells, names in by_cells.items():
        lines.append(f"| {', '.join(_short(names))} | {' | '.join(cells)} |")
    return lines


def _short(names: list[str]) -> list[str]:
    """The names below one object, those after the first without what stands before them all."""
    made, above = [], ""
    for name in names:
        before, dot, last = name.partition("` ")[0].rpartition(".")
        is_below = bool(dot) and before == above and " as " not in name and "[" not in last
        made.append(f"`.{last}" if is_below else name)
        above = before if dot and name.startswith("`spec") else ""
    return made
