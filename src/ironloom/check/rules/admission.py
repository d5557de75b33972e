"""What the admission of a kind refuses beyond its fields: parts that must fit each other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ironloom.check import look
from ironloom.check.fields import PLACEHOLDER, is_part
from ironloom.check.finding import Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.kserve_words import OTHER_FRAMEWORKS
from ironloom.workload.manifests.schema import Path
from ironloom.workload.manifests.suggest import nearest

JOBSET_WEBHOOK = Source(
    "https://github.com/kubernetes-sigs/jobset/blob/v0.12.0/pkg/webhooks/jobset_webhook.go",
    "what JobSet's webhook refuses",
)
LABEL = re.compile(r"[a-z](?:[-a-z0-9]*[a-z0-9])?")
"""RFC 1035: what a job's or pod's host name is."""
MAX_LABEL = 63
SUFFIX = "-abcde"
"""The five letters that a job's controller adds to a pod's name."""


@rule(
    id="IL020",
    name="indexed-job-without-completions",
    family="schema",
    severity=Severity.ERROR,
    subject=Document,
    summary="completionMode Indexed without a number of completions",
    why="The indexes of an Indexed Job are 0 to completions − 1: the API server refuses one that says no number. "
    "Distributed training over the pods of a Job wants completions and parallelism alike.",
    bad="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  completionMode: Indexed
  parallelism: 4
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    good="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  completionMode: Indexed
  completions: 4
  parallelism: 4
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    sources=(
        Source(
            "https://kubernetes.io/docs/concepts/workloads/controllers/job/#completion-mode",
            "Indexed needs .spec.completions",
        ),
    ),
)
def indexed_job_without_completions(document: Document, context: Context) -> Iterator[Problem]:
    if is_part(document, context):
        return
    for path in _job_specs(document):
        spec = look.mapping(document.obj, path)
        if spec.get("completionMode") == "Indexed" and spec.get("completions") is None:
            number = look.integer(spec, ("parallelism",)) or 1
            yield problem(
                document,
                (*path, "completionMode"),
                "an Indexed Job must say its completions",
                help=f"completions: {number}, as many as run at once",
            )


def _job_specs(document: Document) -> Iterator[Path]:
    """JobSpecs that the API server takes as they are; JobSet's webhook makes a Job Indexed and fills the number in."""
    if document.type_name == "batch/v1/Job":
        yield ("spec",)
    elif document.type_name == "batch/v1/CronJob":
        yield ("spec", "jobTemplate", "spec")


@rule(
    id="IL021",
    name="ports-without-names",
    family="schema",
    severity=Severity.ERROR,
    subject=Document,
    summary="a Service of several ports, and one without a name",
    why="With more than one port each must have a name, so that it is clear which is meant; the API server refuses the "
    "Service. A metrics port that is added beside the API's is the common case.",
    bad="""\
apiVersion: v1
kind: Service
metadata:
  name: llama
spec:
  ports:
  - port: 80
  - port: 9090
    name: metrics
""",
    good="""\
apiVersion: v1
kind: Service
metadata:
  name: llama
spec:
  ports:
  - port: 80
    name: http
  - port: 9090
    name: metrics
""",
    sources=(
        Source(
            "https://kubernetes.io/docs/concepts/services-networking/service/#multi-port-services",
            "you must give all of your ports names",
        ),
    ),
)
def ports_without_names(document: Document, context: Context) -> Iterator[Problem]:
    ports = look.entries(document.obj, ("spec", "ports"))
    if document.type_name != "v1/Service" or len(ports) < 2 or is_part(document, context):
        return
    for index, port in enumerate(ports):
        if isinstance(port, Mapping) and not port.get("name"):
            yield problem(document, ("spec", "ports", index), f"of {len(ports)} ports each must have a name")


@rule(
    id="IL022",
    name="not-one-predictor",
    family="schema",
    severity=Severity.ERROR,
    subject=Document,
    summary="a predictor with no model and no container, or with two models",
    why="KServe runs one thing in a predictor: a model, by one framework's name, or a container of one's own. Its "
    "webhook refuses none and two.",
    bad="""\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: llama
spec:
  predictor:
    minReplicas: 1
""",
    good="""\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: llama
spec:
  predictor:
    minReplicas: 1
    model:
      modelFormat:
        name: huggingface
      storageUri: hf://Qwen/Qwen3-8B
""",
    sources=(
        Source(
            "https://github.com/kserve/kserve/blob/v0.20.0/pkg/apis/serving/v1beta1/predictor.go",
            "the implementations, of which there must be exactly one",
        ),
    ),
)
def not_one_predictor(document: Document, context: Context) -> Iterator[Problem]:
    if document.type_name != "serving.kserve.io/v1beta1/InferenceService" or is_part(document, context):
        return
    path: Path = ("spec", "predictor")
    spec = look.mapping(document.obj, path)
    if not spec:
        return
    models = [name for name in ("model", "huggingface", *OTHER_FRAMEWORKS) if spec.get(name) is not None]
    containers = look.entries(spec, ("containers",))
    own = any(look.text(container, ("name",)) == "kserve-container" for container in containers)
    if len(models) + own > 1:
        said = " and ".join([*models, *["the container kserve-container"] * own])
        yield problem(document, (*path, models[-1]), f"the predictor has {said}: it can have one", at_key=True)
    elif not models and not containers:
        yield problem(document, path, "the predictor has neither a model nor a container", at_key=True)


@rule(
    id="IL023",
    name="generated-name-too-long",
    family="schema",
    severity=Severity.ERROR,
    subject=Document,
    summary="names of a JobSet from which job or pod names over 63 characters are made",
    why="JobSet names each Job after itself, the replicated job and its index, and each pod after that, its own index "
    "and five letters. They are host names: 63 characters at most, beginning with a letter. Its webhook refuses "
    "others, and names made of a model, a date and a user are soon that long.",
    bad="""\
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: finetune-llama-3-1-70b-instruct-alpaca-2026-11-27
spec:
  replicatedJobs:
  - name: worker-nodes
    replicas: 2
    template:
      spec:
        completions: 16
        completionMode: Indexed
        template:
          spec:
            containers:
            - name: main
              image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    good="""\
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: finetune-llama-3-1-70b
spec:
  replicatedJobs:
  - name: worker-nodes
    replicas: 2
    template:
      spec:
        completions: 16
        completionMode: Indexed
        template:
          spec:
            containers:
            - name: main
              image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    sources=(JOBSET_WEBHOOK,),
)
def generated_name_too_long(document: Document, _context: Context) -> Iterator[Problem]:
    if document.kind != "JobSet" or not document.name or PLACEHOLDER.search(document.name):
        return
    for index, job in enumerate(look.entries(document.obj, ("spec", "replicatedJobs"))):
        name = look.text(job, ("name",))
        if not name or PLACEHOLDER.search(name):
            continue
        replicas = look.integer(job, ("replicas",))
        longest = f"{document.name}-{name}-{(1 if replicas is None else replicas) - 1}"
        spec = look.mapping(job, ("template", "spec"))
        pods = look.integer(spec, ("completions",))
        what = "job"
        if pods is not None and spec.get("completionMode") == "Indexed" and len(longest) <= MAX_LABEL:
            longest, what = f"{longest}-{pods - 1}{SUFFIX}", "pod"
        if len(longest) > MAX_LABEL:
            yield problem(
                document,
                ("metadata", "name"),
                f"{what} names of this JobSet have {len(longest)} characters, and {MAX_LABEL} are the most",
                evidence=(f"{longest} of the replicated job {name}",),
                help=f"shorten the names by {len(longest) - MAX_LABEL}",
            )
            return
        if not LABEL.fullmatch(longest):
            path: Path = ("metadata", "name") if not LABEL.fullmatch(document.name) else (
                "spec", "replicatedJobs", index, "name")  # fmt: skip
            message = f"{longest} is no host name: small letters, digits and dashes, with a letter first"
            yield problem(document, path, message)
            return


@rule(
    id="IL024",
    name="no-such-replicated-job",
    family="schema",
    severity=Severity.ERROR,
    subject=Document,
    summary="a policy, coordinator or dependency that names a replicated job that is not there",
    why="JobSet's webhook refuses a name that is none of its replicated jobs, and a job that depends on a later one: "
    "jobs are started in their order.",
    bad="""\
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: train
spec:
  successPolicy:
    operator: All
    targetReplicatedJobs: [leader]
  replicatedJobs:
  - name: workers
    template:
      spec:
        template:
          spec:
            containers:
            - name: main
              image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    good="""\
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: train
spec:
  successPolicy:
    operator: All
    targetReplicatedJobs: [workers]
  replicatedJobs:
  - name: workers
    template:
      spec:
        template:
          spec:
            containers:
            - name: main
              image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    sources=(JOBSET_WEBHOOK,),
)
def no_such_replicated_job(document: Document, context: Context) -> Iterator[Problem]:
    if document.kind != "JobSet" or is_part(document, context):
        return
    jobs = look.entries(document.obj, ("spec", "replicatedJobs"))
    names = [look.text(job, ("name",)) for job in jobs]
    for path in _named_jobs(document):
        name = look.text(document.obj, path)
        if name and name not in names and not PLACEHOLDER.search(name):
            near = nearest(name, names)
            did = f"; did you mean {near!r}?" if near else ""
            yield problem(document, path, f"there is no replicated job {name!r}{did}")
    for index, job in enumerate(jobs):
        for number, need in enumerate(look.entries(job, ("dependsOn",))):
            path = ("spec", "replicatedJobs", index, "dependsOn", number, "name")
            name = look.text(need, ("name",))
            if name and name not in names[:index] and not PLACEHOLDER.search(name):
                why = "comes after it" if name in names[index:] else "is not there"
                yield problem(document, path, f"{names[index]} depends on the replicated job {name!r}, which {why}")


def _named_jobs(document: Document) -> Iterator[Path]:
    yield ("spec", "coordinator", "replicatedJob")
    targets: list[Path] = [("spec", "successPolicy", "targetReplicatedJobs")]
    rules = look.entries(document.obj, ("spec", "failurePolicy", "rules"))
    targets += [("spec", "failurePolicy", "rules", index, "targetReplicatedJobs") for index, _ in enumerate(rules)]
    for path in targets:
        for index, _ in enumerate(look.entries(document.obj, path)):
            yield (*path, index)


@rule(
    id="IL025",
    name="several-nodes-need-a-volume",
    family="schema",
    severity=Severity.ERROR,
    subject=Document,
    summary="a predictor over several nodes whose model is not in a volume or an image",
    why="Every node of the group must read the same model. KServe takes pvc:// and oci:// for a predictor with a "
    "workerSpec and refuses hf://, s3:// and the others; the sizes of parallelism stand in workerSpec, not in env.",
    bad="""\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: llama
  annotations:
    serving.kserve.io/deploymentMode: Standard
    serving.kserve.io/autoscalerClass: none
spec:
  predictor:
    model:
      modelFormat:
        name: huggingface
      storageUri: hf://meta-llama/Llama-3.1-405B-Instruct
    workerSpec:
      pipelineParallelSize: 2
""",
    good="""\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: llama
  annotations:
    serving.kserve.io/deploymentMode: Standard
    serving.kserve.io/autoscalerClass: none
spec:
  predictor:
    model:
      modelFormat:
        name: huggingface
      storageUri: pvc://models/llama
    workerSpec:
      pipelineParallelSize: 2
""",
    sources=(
        Source(
            "https://github.com/kserve/kserve/blob/v0.20.0/pkg/apis/serving/v1beta1/inference_service_validation.go",
            "validateMultiNodeVariables: pvc or oci, and no sizes in env",
        ),
    ),
)
def several_nodes_need_a_volume(document: Document, _context: Context) -> Iterator[Problem]:
    path: Path = ("spec", "predictor", "model")
    if document.kind != "InferenceService" or look.at(document.obj, ("spec", "predictor", "workerSpec")) is None:
        return
    uri = look.text(document.obj, (*path, "storageUri"))
    scheme = uri.partition("://")[0]
    if "://" in uri and scheme not in {"pvc", "oci"} and not PLACEHOLDER.search(scheme):
        message = f"a predictor over several nodes takes its model from pvc:// or oci://, not {scheme}://"
        yield problem(document, (*path, "storageUri"), message)
    for index, variable in enumerate(look.entries(document.obj, (*path, "env"))):
        name = look.text(variable, ("name",))
        if name in {"PIPELINE_PARALLEL_SIZE", "TENSOR_PARALLEL_SIZE"}:
            field = "pipelineParallelSize" if name.startswith("PIPELINE") else "tensorParallelSize"
            message = f"{name} is refused beside a workerSpec: write workerSpec.{field}"
            yield problem(document, (*path, "env", index, "name"), message)
