"""The annotations that mean something here, in one table: what each says, what it may be, which setting it is.

docs/reference/annotations.md is written from this table. Ranges are Knative's own
(knative/serving pkg/apis/autoscaling/register.go and annotation_validation.go), so that what is accepted here is
accepted there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import msgspec

from ironloom.units import parse_bytes, parse_duration_s
from ironloom.workload.manifests.arguments import UNCHECKED, Waiver, waive_nothing
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.manifests.suggest import nearest
from ironloom.workload.serving import (
    EVERYWHERE,
    ON_ONE_MACHINE,
    WITHOUT_KSERVE,
    FieldNote,
    Ground,
    ScaleMetric,
    Scaling,
)

AUTOSCALING = "autoscaling.knative.dev/"
OURS = "ironloom.dev/"
ENGINE = OURS + "engine"
_HOUR_S = 3600.0


class Annotation(msgspec.Struct, frozen=True, kw_only=True):
    """One annotation."""

    name: str
    meaning: str
    allowed: str
    """What it may be, in words; for messages and the reference."""
    read: Callable[[str], Any]
    """The value of its text. Raises ValueError."""
    setting: str = ""
    """The setting of Scaling or Serving that it is; empty for one that is understood and not honoured."""
    not_honoured: str = ""
    """Why it changes nothing here."""
    grounds: frozenset[Ground] = EVERYWHERE
    """Where that holds."""
    default: str = ""
    on_one_machine: str = ""
    """Why it changes nothing there; empty for one that counts everywhere."""


class Annotated(msgspec.Struct):
    """What the annotations of one object say."""

    scaling: dict[str, Any] = msgspec.field(default_factory=dict)
    """Settings of Scaling, by name."""
    serving: dict[str, Any] = msgspec.field(default_factory=dict)
    """Settings of Serving, by name."""
    paths: dict[str, Path] = msgspec.field(default_factory=dict)
    """Setting to where it was said."""
    notes: list[FieldNote] = msgspec.field(default_factory=list)


def _whole(low: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if re.fullmatch(r"\+?[0-9]{1,10}", text) is None or not low <= int(text) < 2**31:
            raise ValueError
        return int(text)

    return read


def _number(low: float, high: float = math.inf, scale: float = 1.0) -> Callable[[str], float]:
    def read(text: str) -> float:
        if re.fullmatch(r"[+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?", text) is None:
            raise ValueError  # Python reads more than Go does: 1_0, spaces, other alphabets' digits.
        value = float(text)
        if not (low <= value <= high and math.isfinite(value)):
            raise ValueError
        return value * scale

    return read


def _duration(low_s: float, high_s: float = math.inf, *, whole: bool = False) -> Callable[[str], float]:
    def read(text: str) -> float:
        if not text.isascii() or text != text.strip() or (text != "0" and not text[-1:].isalpha()):
            raise ValueError  # Go's durations carry their unit.
        seconds = parse_duration_s(text)
        if not (low_s <= seconds <= high_s and math.isfinite(seconds)) or (whole and seconds != int(seconds)):
            raise ValueError
        return seconds

    return read


def _word(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if (words and text not in words) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", text):
            raise ValueError
        return text

    return read


def _argument_names(text: str) -> frozenset[str]:
    names = text.replace(",", " ").split()
    if not names or not all(re.fullmatch(r"--?[A-Za-z][A-Za-z0-9_.-]*", name) for name in names):
        raise ValueError
    return frozenset(name.partition(".")[0].replace("_", "-") for name in names)


def _model_cache(text: str) -> str:
    if text == "node" or re.fullmatch(r"pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[^/\0]+)*|file:///[^\0]+", text):
        if "/../" in f"{text}/":
            raise ValueError
        return text
    size, *more = text.split()
    if len(more) > 1 or parse_bytes(size) < 1:
        raise ValueError
    return " ".join((size, *more))


def _any(text: str) -> str:
    return text


_BEFORE = "requests wait at the gateway, which always is in the path"
TABLE: tuple[Annotation, ...] = (
    Annotation(
        name=AUTOSCALING + "min-scale",
        setting="min_replicas",
        meaning="Replicas that stay ready; 0 lets the service go to zero.",
        allowed="a whole number of at least 0",
        read=_whole(0),
        default="1",
    ),
    Annotation(
        name=AUTOSCALING + "max-scale",
        setting="max_replicas",
        meaning="Most replicas at once; 0 is no bound but the machine's capacity.",
        allowed="a whole number of at least 0",
        read=_whole(0),
        default="0",
    ),
    Annotation(
        name=AUTOSCALING + "initial-scale",
        setting="initial_scale",
        meaning="Replicas at creation, before there is any request.",
        allowed="a whole number of at least 0",
        read=_whole(0),
        default="1",
    ),
    Annotation(
        name=AUTOSCALING + "activation-scale",
        setting="activation_scale",
        meaning="Once any replica is wanted, at least this many are.",
        allowed="a whole number of at least 2",
        read=_whole(2),
        default="1",
    ),
    Annotation(
        name=AUTOSCALING + "metric",
        setting="metric",
        meaning="What is counted: requests in flight and held, or requests a second.",
        allowed="concurrency or rps",
        read=_word(),
        default="concurrency",
    ),
    Annotation(
        name=AUTOSCALING + "target",
        setting="target",
        meaning="The metric's value that one replica is meant to carry, before utilisation.",
        allowed="a number of at least 0.01",
        read=_number(0.01),
        default="the engine's useful batch; 200 for rps",
    ),
    Annotation(
        name=AUTOSCALING + "target-utilization-percentage",
        setting="target_utilization_fraction",
        meaning="Scale when this share of the target is reached.",
        allowed="a number from 1 to 100",
        read=_number(1, 100, 0.01),
        default="70",
    ),
    Annotation(
        name=AUTOSCALING + "window",
        setting="stable_window_s",
        meaning="The stable window: load is averaged over it, and zero needs it to be empty.",
        allowed="whole seconds from 6s to 1h",
        read=_duration(6, _HOUR_S, whole=True),
        default="60s",
    ),
    Annotation(
        name=AUTOSCALING + "panic-window-percentage",
        setting="panic_window_fraction",
        meaning="The panic window as a share of the stable window.",
        allowed="a number from 1 to 100",
        read=_number(1, 100, 0.01),
        default="10",
    ),
    Annotation(
        name=AUTOSCALING + "panic-threshold-percentage",
        setting="panic_threshold_fraction",
        meaning="Panic when the panic window wants this share of the replicas there are.",
        allowed="a number from 110 to 1000",
        read=_number(110, 1000, 0.01),
        default="200",
    ),
    Annotation(
        name=AUTOSCALING + "scale-down-delay",
        setting="scale_down_delay_s",
        meaning="How long less must be wanted before the count goes down.",
        allowed="whole seconds from 0s to 1h",
        read=_duration(0, _HOUR_S, whole=True),
        default="0s",
    ),
    Annotation(
        name=AUTOSCALING + "scale-to-zero-pod-retention-period",
        setting="retention_s",
        meaning="The last replica lingers at least this long after the window is empty.",
        allowed="a duration from 0s to 1h",
        read=_duration(0, _HOUR_S),
        default="0s",
    ),
    Annotation(
        name=AUTOSCALING + "class",
        meaning="Which autoscaler of the cluster scales the service.",
        allowed="any text",
        read=_any,
        not_honoured="Ironloom's own autoscaler scales it",
    ),
    Annotation(
        name=AUTOSCALING + "target-burst-capacity",
        meaning="When Knative's activator leaves the path.",
        allowed="-1 or a number of at least 0",
        read=_number(-1),
        not_honoured=_BEFORE,
    ),
    Annotation(
        name=AUTOSCALING + "metric-aggregation-algorithm",
        meaning="How the windows average.",
        allowed="any text",
        read=_any,
        not_honoured="the windows average linearly",
    ),
    Annotation(
        name="serving.knative.dev/progress-deadline",
        setting="start_deadline_s",
        meaning="A start that takes longer has failed.",
        allowed="a duration above 0s",
        read=_duration(1),
        default="600s",
    ),
    Annotation(
        name="serving.kserve.io/deploymentMode",
        meaning="How KServe deploys it. Serverless and RawDeployment are the old names of Knative and Standard.",
        allowed="Knative, Standard, ModelMesh, Serverless or RawDeployment",
        read=_word("Knative", "Standard", "ModelMesh", "Serverless", "RawDeployment"),
        not_honoured="replicas are processes on this machine",
        grounds=ON_ONE_MACHINE,
    ),
    Annotation(
        name="serving.kserve.io/autoscalerClass",
        meaning="Which autoscaler KServe makes in Standard mode.",
        allowed="hpa, keda, external or none",
        read=_word("hpa", "keda", "external", "none"),
        not_honoured="Ironloom's own autoscaler scales it",
        grounds=WITHOUT_KSERVE,
    ),
    Annotation(
        name="serving.kserve.io/targetUtilizationPercentage",
        meaning="CPU utilisation that KServe's HPA aims at.",
        allowed="a number from 1 to 100",
        read=_number(1, 100),
        not_honoured="CPU utilisation is no metric here; scaleMetric is concurrency or rps",
        grounds=WITHOUT_KSERVE,
    ),
    Annotation(
        name="serving.kserve.io/stop",
        meaning="KServe stops the service while this is true.",
        allowed="true or false",
        read=_word("true", "false"),
        not_honoured="`ironloom scale NAME --replicas 0` stops it until the next request",
        grounds=WITHOUT_KSERVE,
    ),
    Annotation(
        name=OURS + "park-for",
        setting="park_for_s",
        meaning="At zero a replica is parked this long before it is stopped; 0s stops it at once.",
        allowed="a duration of at least 0s",
        read=_duration(0),
        default="the backend's: as long as it pays for the engine",
    ),
    Annotation(
        name=OURS + "model-cache",
        setting="model_cache",
        meaning="In a cluster, where engines keep what they fetch from the hub, also while the service is at zero.",
        allowed="a size such as 100Gi, a storage class after it or not; pvc://CLAIM[/FOLDER]; file:///FOLDER; or node",
        read=_model_cache,
        default="nothing is kept",
        on_one_machine="the daemon's own cache of models is used",
    ),
    Annotation(
        name=UNCHECKED,
        setting="unchecked_args",
        meaning="Arguments of the server, of a version newer than the table of its options, to be taken as they stand.",
        allowed="names that begin with -, with spaces or commas between them",
        read=_argument_names,
    ),
    Annotation(
        name=ENGINE,
        setting="runtime",
        meaning="The engine to run it with, by its name.",
        allowed="an engine's name, such as openvino, llamacpp, transformers or vllm",
        read=_word(),
        default="the one that fits the machine",
    ),
)
BY_NAME: dict[str, Annotation] = {made.name: made for made in TABLE}
_SCALING = frozenset(setting.name for setting in fields(Scaling))


def old_spelling(name: str) -> str:
    """Knative's old camelCase of a name: `autoscaling.knative.dev/minScale`."""
    prefix, _, last = name.rpartition("/")
    head, *rest = last.split("-")
    return f"{prefix}/{head}{''.join(word.capitalize() for word in rest)}"


OLD_SPELLINGS: dict[str, str] = {
    old_spelling(made.name): made.name
    for made in TABLE
    if made.name.startswith(AUTOSCALING) and old_spelling(made.name) != made.name
}


def read_annotations(made: Document, sources: list[tuple[Path, Mapping[str, Any] | None]]) -> Annotated:
    """What an object's annotations say. Of the same annotation in several sources the last one counts.

    One that is wrong is a complaint of the document's, which names annotation, value and what is allowed.
    """
    said = Annotated()
    for base, values in sources:
        for key, text in (values or {}).items():
            name = OLD_SPELLINGS.get(key, key)
            annotation = BY_NAME.get(name)
            path = (*base, key)
            if annotation is None:
                _unknown(made, said, path, key)
                continue
            if text is None:
                continue
            _take(made, said, path, annotation, str(text))
    return said


def waiver(*sources: Mapping[str, Any] | None) -> Waiver:
    """Which arguments of the server an object's annotations exempt; of one in several sources the last counts.

    The fake engine has arguments of its own, which no table knows.
    """
    said = {key: str(text) for values in sources for key, text in (values or {}).items() if text is not None}
    if said.get(ENGINE) == "fake":
        return lambda _: True
    try:
        names = _argument_names(said[UNCHECKED])
    except (KeyError, ValueError):  # read_annotations tells of it
        return waive_nothing
    return lambda name: name.partition(".")[0] in names


def _take(made: Document, said: Annotated, path: Path, annotation: Annotation, text: str) -> None:
    try:
        value = annotation.read(text)
    except ValueError:
        made.complain(path, f"{path[-1]} = {text[:80]!r}, must be {annotation.allowed}")
        return
    if annotation.setting == "metric":
        if value not in tuple(ScaleMetric):
            said.notes.append(made.note(path, f"{path[-1]}: {value} is not counted here; concurrency is"))
            return
        value = ScaleMetric(value)
    if not annotation.setting:
        if annotation.name == "serving.kserve.io/stop" and value == "false":
            return
        said.notes.append(made.note(path, f"{path[-1]}: {annotation.not_honoured}", annotation.grounds))
        return
    if annotation.name == UNCHECKED:
        return  # `waiver` has read it: the command line is read before this.
    if annotation.on_one_machine:
        said.notes.append(made.note(path, f"{path[-1]}: {annotation.on_one_machine}", ON_ONE_MACHINE))
    into = said.scaling if annotation.setting in _SCALING else said.serving
    into[annotation.setting] = value
    said.paths[annotation.setting] = path


def _unknown(made: Document, said: Annotated, path: Path, key: str) -> None:
    """A name under a prefix of ours that the table does not have: an error when it is a slip, else said once."""
    if not key.startswith((AUTOSCALING, OURS)):
        return
    prefix, _, last = key.partition("/")
    near = nearest(last, [name.partition("/")[2] for name in BY_NAME if name.startswith(prefix + "/")])
    if near is not None:
        made.complain(path, f"there is no annotation {key!r}; did you mean '{prefix}/{near}'?", at_key=True)
    elif key.startswith(OURS):
        known = ", ".join(name for name in BY_NAME if name.startswith(OURS))
        made.complain(path, f"there is no annotation {key!r}; under {OURS} there are {known}", at_key=True)
    else:
        said.notes.append(made.note(path, f"{key} means nothing here"))


def reference_page() -> str:
    """docs/reference/annotations.md."""
    rows = ["# Annotations", ""]
    rows += ["What the standard kinds cannot say stands in annotations, under `metadata.annotations` of the object."]
    rows += ["For an InferenceService also under `spec.predictor.annotations`, for a Deployment under its template,"]
    rows += ["for an LLMInferenceService under `spec.annotations`; the inner one counts. Values are strings.", ""]
    rows += [
        "`minReplicas`, `maxReplicas`, `scaleMetric` and `scaleTarget` of an InferenceService, where they are set,"
    ]
    rows += ["count before the annotations of the same meaning, as in KServe.", ""]
    rows += ["| annotation | meaning | allowed | default |", "|---|---|---|---|"]
    rows += [f"| `{made.name}` | {made.meaning} | {made.allowed} | {made.default} |" for made in TABLE if made.setting]
    rows += ["", "## Understood, and said not to be honoured here", "", "| annotation | why |", "|---|---|"]
    rows += [f"| `{made.name}` | {made.not_honoured}. |" for made in TABLE if not made.setting]
    rows += ["", "## Old spellings", "", "Knative's old camelCase names mean the same:", ""]
    rows += [f"- `{old}`" for old in OLD_SPELLINGS]
    rows += ["", "## Others", ""]
    rows += [f"A name under `{AUTOSCALING}` or `{OURS}` that is near one of these is an error, because it is a slip."]
    rows += ["All other annotations are left alone."]
    return "\n".join(rows) + "\n"
