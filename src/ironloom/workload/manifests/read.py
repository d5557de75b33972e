"""Texts into documents; documents into workloads."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import msgspec

from ironloom.errors import ManifestError
from ironloom.workload.manifests import (
    deployment,
    inference_service,
    leader_worker_set,
    llm_inference_service,
    nodes,
    schema,
    train_job,
)
from ironloom.workload.manifests.applied import restored
from ironloom.workload.manifests.document import Document, check, document, faults, without
from ironloom.workload.manifests.files import items, texts
from ironloom.workload.manifests.problems import each, raise_all
from ironloom.workload.manifests.schema import MAX_PROBLEMS, path_text
from ironloom.workload.manifests.schema import Path as FieldPath
from ironloom.workload.manifests.training_command import MODULE
from ironloom.workload.serving import FieldNote, Serving
from ironloom.workload.training_job import TrainingJob

OBJECT = "<object>"
KINDS: dict[str, Callable[[Document], Serving | None]] = {
    "serving.kserve.io/v1beta1/InferenceService": inference_service.serving,
    "serving.kserve.io/v1alpha1/LLMInferenceService": llm_inference_service.serving,
    "serving.kserve.io/v1alpha2/LLMInferenceService": llm_inference_service.serving,
    "apps/v1/Deployment": deployment.serving,
    "leaderworkerset.x-k8s.io/v1/LeaderWorkerSet": leader_worker_set.serving,
}
"""Every kind that can be a serving workload."""
TRAINING_KINDS = train_job.KINDS
"""Every kind that can be a training workload."""
SERVICE = "v1/Service"


class OtherRun(msgspec.Struct, frozen=True, kw_only=True):
    """A training workload that runs another program than ours, which a cluster trains all the same."""

    manifest: dict[str, Any]
    note: FieldNote
    """That it is skipped where ours alone runs."""


class Workloads(msgspec.Struct, frozen=True, kw_only=True):
    """What a set of documents asks for, and what of it is left alone."""

    servings: tuple[Serving, ...] = ()
    trainings: tuple[TrainingJob, ...] = ()
    skipped: tuple[FieldNote, ...] = ()
    """Objects that are no workload of this machine, each named."""
    other_runs: tuple[OtherRun, ...] = ()
    """Those of them that a cluster trains."""


def read_manifests(paths: Sequence[str | Path], *, stdin: TextIO | None = None) -> list[Document]:
    """The objects of files, folders (every .yaml, .yml and .json below, in order of name) and `-`, standard input.

    Each object's fields are checked against its kind. Raises ManifestError: with several things wrong it is a
    ManifestProblems, which has them all, file by file.
    """
    found, problems, _ = _read(paths, stdin, check)
    raise_all(problems)
    return found


def read_workloads(paths: Sequence[str | Path], *, stdin: TextIO | None = None) -> Workloads:
    """The workloads of files, folders and `-`, standard input: `read_manifests`, then `to_workloads`.

    Raises ManifestError, with everything that is wrong in all of them at once, file by file.
    """
    documents, problems, files = _read(paths, stdin, lambda _made: [])
    found, more = _workloads(documents)
    order = {file: number for number, file in enumerate(dict.fromkeys(files))}
    raise_all(sorted([*problems, *more], key=lambda problem: order.get(problem.file, 0)))
    return found


def _read(
    paths: Sequence[str | Path], stdin: TextIO | None, look: Callable[[Document], list[ManifestError]]
) -> tuple[list[Document], list[ManifestError], list[str]]:
    """All objects, what is wrong with the texts and, by `look`, with each, and the files in their order."""
    found: list[Document] = []
    files: list[str] = []
    problems: list[ManifestError] = []
    for file, read in texts(paths, stdin if stdin is not None else sys.stdin):
        files.append(file)
        try:
            for made in _documents(read(), file):
                found.append(made)
                problems += look(made)
        except ManifestError as error:
            problems += each(error)
    if not found and not problems:
        named = ", ".join(str(path) for path in paths) or "no file"
        problems.append(ManifestError("there is no Kubernetes object in it", file=named))
    return found, problems, files


def read_text(text: str, file: str = "<text>") -> list[Document]:
    """The objects of one text, checked as `read_manifests` does."""
    found = list(_documents(text, file))
    raise_all([problem for made in found for problem in check(made)])
    return found


def to_serving(made: Document) -> Serving:
    """The serving workload of a document. Raises ManifestError, also where it is none."""
    made = restored(made)
    found, problems = _converted(made) if made.type_name not in TRAINING_KINDS else (None, [])
    raise_all(problems)
    if made.type_name not in KINDS or isinstance(found, TrainingJob):
        raise made.error(
            ("kind",),
            f"kind = {made.kind!r} of {made.api_version} is no serving workload",
            hint=f"these are: {', '.join(KINDS)}",
        )
    if found is None:
        raise made.error(
            ("kind",),
            f"{made.kind} {made.name} runs neither vLLM nor KServe's Hugging Face server",
            hint="an image named vllm… or huggingfaceserver, or a command such as `vllm serve MODEL`, is understood",
        )
    return found


def to_workloads(documents: Iterable[Document]) -> Workloads:
    """The workloads of a set of documents, a Deployment with the Services that select it. What Ironloom made in a
    cluster is the workload that it was made of.

    What is no workload is skipped and named. Raises ManifestError (all problems at once), also for two of one name.
    """
    found, problems = _workloads(documents)
    raise_all(problems)
    return found


def _converted(made: Document) -> tuple[Serving | TrainingJob | None, list[ManifestError]]:
    """The workload of a document, if it is one, and everything that is wrong with it, in the order of the text.

    Where fields are not what their kind has, the rest is looked at without them. What then is wrong with a part that
    one of them belongs to, or with one that is not there, may be so only for want of it, and is not told.
    """
    trains = TRAINING_KINDS.get(made.type_name)
    if trains is not None:
        if not train_job.runs_our_program(made):
            return None, []
        wrong = schema.faults(made.positions.root, made.type_name, made.file, schema.load_all())
    elif made.type_name in KINDS and made.type_name not in schema.load().kinds:
        wrong = schema.faults(made.positions.root, made.type_name, made.file, schema.load_all())
    else:
        wrong = faults(made)
    problems = [error for _, error in wrong]
    convert: Callable[[Document], Serving | TrainingJob | None] | None = trains or KINDS.get(made.type_name)
    looked_at = without(made, [path for path, _ in wrong]) if wrong else made
    if convert is None or looked_at is None or len(wrong) == MAX_PROBLEMS:
        return None, problems
    looked_at.found.clear()
    found, more = None, looked_at.found
    try:
        found = convert(looked_at)
    except ManifestError as error:
        more = list(dict.fromkeys((*looked_at.found, *each(error))))
    if wrong:
        above = {path_text(path[:length]) for path, _ in wrong for length in range(len(path) + 1)}
        there = set(_paths(looked_at.obj, ()))
        more = [error for error in more if error.path in there and error.path not in above]
    if isinstance(found, Serving) and found.model_uri:
        found = replace(found, model_place=_place_of(made, found.model_uri))
    problems += more
    problems.sort(key=lambda error: (error.line, error.column))
    return (None if problems else found), problems


def _paths(value: object, path: FieldPath) -> Iterator[str]:
    """The path of every field and entry that there is."""
    yield path_text(path)
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, below in entries:
        yield from _paths(below, (*path, step))


def _place_of(made: Document, text: str) -> FieldNote | None:
    """Where a text stands as the whole of a value, for the first time."""
    waiting: list[tuple[FieldPath, object]] = [((), made.obj)]
    while waiting:
        path, value = waiting.pop()
        if value == text:
            place = made.positions.value(path)
            return FieldNote(path=path_text(path), message="", file=made.file, line=place.line, column=place.column)
        entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        waiting += [((*path, step), below) for step, below in reversed(list(entries))]
    return None


def _workloads(documents: Iterable[Document]) -> tuple[Workloads, list[ManifestError]]:
    servings: list[Serving] = []
    trainings: list[TrainingJob] = []
    others: list[Document] = []
    problems: list[ManifestError] = []
    first: dict[tuple[str, str], Document] = {}
    for made in map(restored, documents):
        found, wrong = _converted(made)
        if wrong:
            problems += wrong
            continue
        if found is None:
            others.append(made)
            continue
        key = (found.namespace, found.name)
        if key in first:
            place = first[key].positions.value(("metadata", "name"))
            what = "run" if first[key].type_name in TRAINING_KINDS else "service"
            problems.append(
                made.error(
                    ("metadata", "name"),
                    f"there is a {what} {found.name!r} already, in {first[key].file}:{place.line}: "
                    f"a {what} is known by its name",
                )
            )
        first.setdefault(key, made)
        if isinstance(found, TrainingJob):
            trainings.append(found)
        else:
            servings.append(found)
    services = [made for made in others if made.type_name == SERVICE]
    servings = [
        deployment.with_services(found, [service.obj for service in services]) if found.kind == "Deployment" else found
        for found in servings
    ]
    taken = [id(made) for made in services if any(deployment.selects(made.obj, found.manifest) for found in servings)]
    skipped = [(made, _skipped(made)) for made in others if id(made) not in taken]
    found_all = Workloads(
        servings=tuple(servings),
        trainings=tuple(trainings),
        skipped=tuple(note for _, note in skipped),
        other_runs=tuple(
            OtherRun(manifest=made.obj, note=note) for made, note in skipped if made.type_name in TRAINING_KINDS
        ),
    )
    return found_all, problems


def parse_object(obj: Mapping[str, Any]) -> Serving:
    """The serving workload of one object that came without a text. Raises ManifestError."""
    return to_serving(document(nodes.from_object(dict(obj)), OBJECT))


def parse_objects(objects: Iterable[Mapping[str, Any]]) -> Workloads:
    """`to_workloads` of objects that came without a text, `kind: List` taken apart. Raises ManifestError."""
    return to_workloads([made for obj in objects for made in listed(nodes.from_object(dict(obj)), OBJECT, "")])


def _skipped(made: Document) -> FieldNote:
    why = "selects no workload of these files" if made.type_name == SERVICE else "is no workload of this machine"
    if made.kind == "Deployment":
        why = "runs neither vLLM nor KServe's Hugging Face server"
    if made.type_name in TRAINING_KINDS:
        why = f"does not run {MODULE}"
    return made.note(("kind",), f"{made.kind} {made.name or '(no name)'} {why}: skipped")


def _documents(text: str, file: str) -> Iterator[Document]:
    for node in nodes.parse(text, file):
        yield from listed(node, file, text)


def listed(node: nodes.Node, file: str, text: str) -> Iterator[Document]:
    """A document, or those of a `kind: List`, which `kubectl get -o yaml` prints. Raises ManifestError."""
    for item in items(node, file, text):
        yield document(item, file, text)
