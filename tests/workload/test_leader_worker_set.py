"""LeaderWorkerSets whose leader runs an engine."""

from __future__ import annotations

import textwrap

import pytest

from ironloom.backends.kubernetes.render import multi_node, plain
from ironloom.errors import ManifestError
from ironloom.workload.manifests.read import parse_object, read_text, to_serving, to_workloads
from ironloom.workload.serving import Ground, Serving


def read(spec: str, annotations: str = "{}") -> Serving:
    head = "apiVersion: leaderworkerset.x-k8s.io/v1\nkind: LeaderWorkerSet\n"
    head += f"metadata: {{name: wide, annotations: {annotations}}}\n"
    [made] = read_text(head + textwrap.dedent(spec))
    return to_serving(made)


RAY = """
spec:
  replicas: 2
  leaderWorkerTemplate:
    size: 2
    restartPolicy: RecreateGroupOnPodRestart
    leaderTemplate:
      metadata: {labels: {role: leader}}
      spec:
        containers:
        - name: vllm-leader
          image: vllm/vllm-openai:v0.26.0
          command:
          - sh
          - -c
          - >-
            bash start.sh leader --ray_cluster_size=$(LWS_GROUP_SIZE);
            vllm serve a/b --port 8080 --tensor-parallel-size 8 --pipeline-parallel-size 2
          ports: [{containerPort: 8080}]
          resources: {limits: {nvidia.com/gpu: "8"}}
    workerTemplate:
      spec:
        containers:
        - name: vllm-worker
          image: vllm/vllm-openai:v0.26.0
          command: [sh, -c, "bash start.sh worker --ray_address=$(LWS_LEADER_ADDRESS)"]
          resources: {limits: {nvidia.com/gpu: "8"}}
"""


def test_the_leaders_command_is_the_service_and_a_group_is_a_replica() -> None:
    made = read(RAY)
    assert (made.name, made.kind, made.model_uri) == ("wide", "LeaderWorkerSet", "hf://a/b")
    assert (made.scaling.min_replicas, made.scaling.max_replicas) == (2, 2)
    assert made.resources.num_gpus == 8


def test_in_a_cluster_its_templates_stay_as_they_are_written_and_get_what_pods_need() -> None:
    made = read(RAY, '{autoscaling.knative.dev/min-scale: "0"}')
    span = multi_node.span_of(made)
    assert span is not None
    [group, service, *_] = multi_node.objects(made, plain.Setting(), span)
    written = made.manifest["spec"]["leaderWorkerTemplate"]
    template = group["spec"]["leaderWorkerTemplate"]
    assert "replicas" not in group["spec"]
    assert template["size"] == 2
    for role in ("leaderTemplate", "workerTemplate"):
        [before], [after] = (one[role]["spec"]["containers"] for one in (written, template))
        assert after["command"] == before["command"]
        assert "args" not in after
    assert template["leaderTemplate"]["metadata"]["labels"]["role"] == "leader"
    assert service["spec"]["ports"][0]["targetPort"] == 8080


def test_one_without_a_leaders_template_is_read_from_its_workers() -> None:
    made = read("""
    spec:
      leaderWorkerTemplate:
        workerTemplate:
          spec: {containers: [{name: x, image: vllm/vllm-openai:v0.26.0, args: [--model, a/b]}]}
    """)
    assert (made.model_uri, made.scaling.min_replicas) == ("hf://a/b", 1)


def test_what_is_said_of_it_depends_on_where_it_runs() -> None:
    made = read(RAY)
    assert "size 2: the whole replica runs on this machine" in [one.message for one in made.notes_on(Ground.LOCAL)]
    assert made.notes_on(Ground.PLAIN) == ()


def test_one_that_runs_no_engine_is_no_service() -> None:
    [other] = read_text("""
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata: {name: other}
spec: {leaderWorkerTemplate: {workerTemplate: {spec: {containers: [{name: x, image: nginx}]}}}}
""")
    found = to_workloads([other])
    assert found.servings == ()
    assert len(found.skipped) == 1


def test_a_field_that_it_has_not_is_an_error_with_its_place() -> None:
    with pytest.raises(ManifestError, match="sise"):
        read("spec: {leaderWorkerTemplate: {sise: 2, workerTemplate: {spec: {containers: [{name: x, image: vllm}]}}}}")


def test_the_object_alone_is_read_as_its_text_is() -> None:
    assert parse_object(read(RAY).manifest).engine_args == read(RAY).engine_args
