"""From one machine to a cluster and back: the same workload, whatever a manifest says."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironloom.backends.kubernetes.field_probes import BASES, Base, found, with_field
from ironloom.backends.kubernetes.render import kserve, llm, multi_node, plain
from ironloom.errors import EngineUnavailable, ManifestError
from ironloom.workload.manifests import dump_yaml, read_text, to_workloads
from ironloom.workload.manifests.read import parse_object
from ironloom.workload.serving import Ground, Serving

OWN = frozenset({"annotations", "labels", "manifest", "not_honoured", "namespace", "model_place"})
"""Of a Serving: what KServe's own object holds beside the manifest's words, and where it stands."""


def rendered(serving: Serving, ground: Ground) -> list[dict[str, Any]]:
    setting = plain.Setting(generation=3, has_hf_secret=True, has_spare_gpus=False)
    if ground is Ground.KSERVE:
        is_llm = serving.kind == "LLMInferenceService"
        return llm.objects(serving, setting) if is_llm else kserve.objects(serving, setting, kserve.Found(runtimes=()))
    span = multi_node.span_of(serving)
    return multi_node.objects(serving, setting, span) if span else plain.objects(serving, setting)


def back(objects: list[dict[str, Any]]) -> Serving:
    """As `ironloom apply -f` of `kubectl get -o yaml` reads them."""
    [serving] = to_workloads(read_text(dump_yaml(objects), "cluster.yaml")).servings
    return serving


def workload_of(serving: Serving) -> dict[str, Any]:
    return {one.name: getattr(serving, one.name) for one in fields(Serving) if one.name not in OWN}


def grounds_of(serving: Serving) -> list[Ground]:
    is_kserves = serving.kind in {"InferenceService", "LLMInferenceService"}
    return [Ground.PLAIN, *([Ground.KSERVE] if is_kserves else [])]


@st.composite
def manifests(draw: st.DrawFn) -> dict[str, Any]:
    """Any set of the fields that the reference tries, in a manifest of any kind."""
    base: Base = draw(st.sampled_from(BASES))
    manifest = base.manifest
    for path, value in draw(st.lists(st.sampled_from(base.tried), max_size=8)):
        if (path[-2:], draw(st.booleans())) != (("containers", 1), True):
            manifest = with_field(manifest, path, value)
    return manifest


@settings(deadline=None, max_examples=60)
@given(manifests())
def test_a_workload_that_was_in_a_cluster_is_the_same_workload(manifest: dict[str, Any]) -> None:
    try:
        serving = parse_object(manifest)
    except ManifestError:  # fields that contradict each other
        return
    for ground in grounds_of(serving):
        try:
            made = rendered(serving, ground)
        except EngineUnavailable:  # an order that no image is known for
            continue
        assert workload_of(back(made)) == workload_of(serving)


@pytest.mark.parametrize("base", BASES, ids=[base.title for base in BASES])
def test_each_field_alone_makes_the_round(base: Base) -> None:
    for path, value in base.tried:
        serving = parse_object(with_field(base.manifest, path, value))
        for ground in grounds_of(serving):
            assert workload_of(back(rendered(serving, ground))) == workload_of(serving), path


def test_where_ironloom_makes_the_objects_the_manifest_comes_back_to_the_letter() -> None:
    for base in BASES:
        serving = parse_object(base.manifest)
        again = back(rendered(serving, Ground.PLAIN))
        for name in ("manifest", "annotations", "labels"):
            assert getattr(again, name) == getattr(serving, name)


def test_the_second_time_around_changes_nothing() -> None:
    for base in BASES:
        serving = parse_object(base.manifest)
        for ground in grounds_of(serving):
            once = rendered(serving, ground)
            assert rendered(back(once), ground) == once


def test_an_annotation_that_is_no_manifest_leaves_the_object_what_it_is() -> None:
    base = next(base for base in BASES if base.title == "Deployment")
    for text in ("{", "[]", "3"):
        manifest = with_field(base.manifest, ("metadata", "annotations"), {"ironloom.dev/manifest": text})
        with pytest.raises(ManifestError, match=r"there is no annotation 'ironloom.dev/manifest'"):
            to_workloads(read_text(dump_yaml(manifest)))


def test_the_reference_says_of_every_field_what_each_ground_does() -> None:
    for base in BASES:
        for one in found(base):
            assert all((one.local, one.plain, one.kserve)), one.field
