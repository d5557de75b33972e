"""Parts of an object that exclude or need one another, by the expressions in its kind's definition.

A definition's x-kubernetes-validations are what the API server evaluates beside types and required fields. Those that
people meet stand here as rules of their own; those of routes, of statuses and of changes are left to the API server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ironloom.check import edits, look
from ironloom.check.fields import PLACEHOLDER, is_part
from ironloom.check.finding import Patch, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules.pod_parts import VALIDATION, whole_pods
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import Workload

_LLM = """\
apiVersion: serving.kserve.io/v1alpha2
kind: LLMInferenceService
metadata:
  name: qwen
spec:
  model:
    uri: hf://Qwen/Qwen3-8B
{lines}"""
_KEDA = """\
  scaling:
    minReplicas: 1
    maxReplicas: 4
    keda:
      triggers:
      - type: prometheus
        metadata:
          serverAddress: http://prometheus:9090
          query: sum(vllm:num_requests_waiting)
          threshold: "5"
"""


@rule(
    id="IL027",
    name="llm-scaling-contradicts-itself",
    family="schema",
    severity=Severity.ERROR,
    subject=Document,
    summary="an LLMInferenceService whose scaling has two deciders, or none",
    why="The number of replicas is either written (replicas) or decided (scaling), and scaling names one decider: KEDA "
    "by triggers of its own, or the workload variant autoscaler, which in turn acts through an HPA or through KEDA. "
    "The API server refuses both of two and neither.",
    bad=_LLM.format(lines="  replicas: 2\n" + _KEDA),
    good=_LLM.format(lines=_KEDA),
    sources=(
        Source(
            "https://github.com/kserve/kserve/blob/v0.20.0/pkg/apis/serving/v1alpha2/llm_inference_service_types.go",
            "replicas and scaling are mutually exclusive, and the rules of ScalingSpec",
        ),
    ),
)
def llm_scaling_contradicts_itself(document: Document, context: Context) -> Iterator[Problem]:
    if document.kind not in {"LLMInferenceService", "LLMInferenceServiceConfig"} or is_part(document, context):
        return
    for part in (("spec",), ("spec", "prefill")):
        spec = look.mapping(document.obj, part)
        if not isinstance(spec.get("scaling"), Mapping):
            continue
        path: Path = (*part, "scaling")
        if spec.get("replicas") is not None:
            yield problem(
                document,
                (*part, "replicas"),
                "replicas beside scaling: the number is either written or decided",
                at_key=True,
                help="leave replicas out, and say minReplicas in scaling",
            )
        yield from _deciders(document, path, spec["scaling"])


def _deciders(document: Document, path: Path, scaling: Mapping[str, Any]) -> Iterator[Problem]:
    wva, keda = scaling.get("wva"), scaling.get("keda")
    if wva is not None and keda is not None:
        yield problem(document, (*path, "keda"), "scaling has wva and keda: it can have one", at_key=True)
    elif wva is None and keda is None:
        yield problem(document, path, "scaling names no decider: neither wva nor keda", at_key=True)
    if isinstance(wva, Mapping):
        acting = [name for name in ("hpa", "keda") if wva.get(name) is not None]
        if len(acting) != 1:
            said = "has hpa and keda: it acts through one" if acting else "acts through nothing: name hpa or keda"
            yield problem(document, (*path, "wva"), f"wva {said}", at_key=True)
        yield from _keda(document, (*path, "wva", "keda"), wva.get("keda"), scaling)
        modifiers = look.mapping(wva, ("keda", "advanced", "scalingModifiers"))
        for name in ("formula", "target", "activationTarget", "metricType"):
            if modifiers.get(name):
                where = (*path, "wva", "keda", "advanced", "scalingModifiers", name)
                yield problem(document, where, f"{name} must not be set: wva decides by a formula of its own")
    yield from _keda(document, (*path, "keda"), keda, scaling)
    if isinstance(keda, Mapping) and "triggers" in keda and not keda["triggers"]:
        yield problem(document, (*path, "keda", "triggers"), "keda without wva needs a trigger")


def _keda(document: Document, path: Path, keda: object, scaling: Mapping[str, Any]) -> Iterator[Problem]:
    idle = look.integer(keda, ("idleReplicaCount",))
    least = look.integer(scaling, ("minReplicas",))
    least = 1 if least is None else least  # the definition's default
    if idle is not None and idle >= least:
        message = f"idleReplicaCount {idle} must be below minReplicas {least}"
        yield problem(document, (*path, "idleReplicaCount"), message)
    if look.text(keda, ("advanced", "horizontalPodAutoscalerConfig", "name")):
        where = (*path, "advanced", "horizontalPodAutoscalerConfig", "name")
        yield problem(document, where, "the name of the HPA must not be set: KServe's controller names it")


def _tolerating(lines: str) -> str:
    return f"""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  tolerations:
{lines}  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
"""


@rule(
    id="IL028",
    name="toleration-contradicts-itself",
    family="schema",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a toleration with a value and Exists, without a key and Equal, or with seconds and no NoExecute",
    why="Exists asks for the key alone, so that a value beside it says two things; without a key only Exists has a "
    "meaning; tolerationSeconds counts from a NoExecute taint. The API server refuses the pod: of a Deployment the "
    "object, of a JobSet the jobs' pods.",
    bad=_tolerating("  - key: nvidia.com/gpu\n    operator: Exists\n    value: present\n    effect: NoSchedule\n"),
    good=_tolerating("  - key: nvidia.com/gpu\n    operator: Exists\n    effect: NoSchedule\n"),
    sources=(
        VALIDATION,
        Source(
            "https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/",
            "with Exists no value should be specified; an empty key needs Exists",
        ),
    ),
)
def toleration_contradicts_itself(workload: Workload, context: Context) -> Iterator[Problem]:
    for pod_set, spec in whole_pods(workload, context):
        yield from _tolerations(workload.document, (*pod_set.path, "tolerations"), look.entries(spec, ("tolerations",)))


@rule(
    id="IL633",
    name="flavor-toleration-contradicts-itself",
    family="queue",
    severity=Severity.ERROR,
    subject=Document,
    summary="a ResourceFlavor's toleration or taint that no pod could have",
    why="Kueue adds the flavor's tolerations to the pods that it admits. They keep to the same rules as a pod's own, "
    "and the API server refuses the flavor: Exists without a value, a key unless Exists, seconds with NoExecute.",
    bad="""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: ResourceFlavor
metadata:
  name: h100
spec:
  tolerations:
  - key: nvidia.com/gpu
    operator: Exists
    value: present
""",
    good="""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: ResourceFlavor
metadata:
  name: h100
spec:
  tolerations:
  - key: nvidia.com/gpu
    operator: Exists
""",
    sources=(
        Source(
            "https://github.com/kubernetes-sigs/kueue/blob/main/apis/kueue/v1beta2/resourceflavor_types.go",
            "the rules of tolerations in the definition",
        ),
    ),
)
def flavor_toleration_contradicts_itself(document: Document, context: Context) -> Iterator[Problem]:
    if document.kind != "ResourceFlavor" or look.group(document) != "kueue.x-k8s.io" or is_part(document, context):
        return
    path: Path = ("spec", "tolerations")
    yield from _tolerations(document, path, look.entries(document.obj, path))


def _tolerations(document: Document, path: Path, tolerations: list[Any]) -> Iterator[Problem]:
    for index, one in enumerate(tolerations):
        if not isinstance(one, Mapping) or any(PLACEHOLDER.search(str(value)) for value in one.values()):
            continue
        operator, key = one.get("operator") or "Equal", one.get("key")
        if operator == "Exists" and one.get("value"):
            yield problem(
                document,
                (*path, index, "value"),
                f"a toleration with operator Exists has no value, and this one has {one['value']}",
                help="leave the value out, which tolerates the key with any value; or write operator: Equal",
            )
        if not key and operator == "Equal" and set(one) & {"operator", "value", "effect", "key"}:
            where = (*path, index, "operator") if "operator" in one else (*path, index)
            yield problem(
                document, where, "a toleration without a key needs operator: Exists", help="name the taint's key"
            )
        if one.get("tolerationSeconds") is not None and one.get("effect") != "NoExecute":
            where = (*path, index, "tolerationSeconds")
            yield problem(document, where, "tolerationSeconds needs effect: NoExecute", at_key=True)


_JOBSET = """\
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: train
spec:
{lines}  replicatedJobs:
  - name: prepare
    template:
      spec:
        template:
          spec:
            containers:
            - name: main
              image: python:3.12
  - name: workers
    dependsOn:
    - name: prepare
      status: Complete
    template:
      spec:
        template:
          spec:
            containers:
            - name: main
              image: nvcr.io/nvidia/pytorch:25.09-py3
"""


@rule(
    id="IL029",
    name="two-orders-of-start",
    family="schema",
    severity=Severity.ERROR,
    subject=Document,
    summary="a JobSet that starts its jobs in order and by dependencies",
    why="startupPolicy InOrder and dependsOn both say which replicated job waits for which. The definition takes one; "
    "dependsOn can wait for Complete, which InOrder cannot.",
    bad=_JOBSET.format(lines="  startupPolicy:\n    startupPolicyOrder: InOrder\n"),
    good=_JOBSET.format(lines=""),
    sources=(
        Source(
            "https://github.com/kubernetes-sigs/jobset/blob/v0.12.0/api/jobset/v1alpha2/jobset_types.go",
            "StartupPolicy and DependsOn APIs are mutually exclusive",
        ),
    ),
)
def two_orders_of_start(document: Document, context: Context) -> Iterator[Problem]:
    spec_path: Path = ("spec",) if document.kind == "JobSet" else ("spec", "template", "spec")
    if document.kind not in {"JobSet", *RUNTIMES} or is_part(document, context):
        return
    spec = look.mapping(document.obj, spec_path)
    if look.text(spec, ("startupPolicy", "startupPolicyOrder")) != "InOrder":
        return
    for index, job in enumerate(look.entries(spec, ("replicatedJobs",))):
        if look.at(job, ("dependsOn",)) is not None:
            yield problem(
                document,
                (*spec_path, "replicatedJobs", index, "dependsOn"),
                "dependsOn beside startupPolicy InOrder: the order is said twice",
                at_key=True,
                help="leave startupPolicy out",
            )
            return


RUNTIMES = ("TrainingRuntime", "ClusterTrainingRuntime")
POLICIES = ("torch", "mpi", "jax", "xgboost", "flux")


def _runtime(policy: str) -> str:
    return f"""\
apiVersion: trainer.kubeflow.org/v1alpha1
kind: ClusterTrainingRuntime
metadata:
  name: torch
spec:
  mlPolicy:
    numNodes: 2
{policy}  template:
    spec:
      replicatedJobs:
      - name: node
        template:
          spec:
            template:
              spec:
                containers:
                - name: node
                  image: nvcr.io/nvidia/pytorch:25.09-py3
"""


@rule(
    id="IL030",
    name="two-training-policies",
    family="schema",
    severity=Severity.ERROR,
    subject=Document,
    summary="a training runtime with two policies of launch",
    why="mlPolicy says how the nodes find each other: torch sets torchrun's variables, mpi writes a hostfile and keys, "
    "and so on. The definition takes one of them, or none.",
    bad=_runtime("    torch: {}\n    mpi:\n      numProcPerNode: 8\n"),
    good=_runtime("    torch: {}\n"),
    sources=(
        Source(
            "https://github.com/kubeflow/trainer/blob/v2.3.0/pkg/apis/trainer/v1alpha1/trainingruntime_types.go",
            "only one of the policy can be configured",
        ),
    ),
)
def two_training_policies(document: Document, context: Context) -> Iterator[Problem]:
    path: Path = ("spec", "mlPolicy")
    if document.kind not in RUNTIMES or is_part(document, context):
        return
    policy = look.mapping(document.obj, path)
    named = [name for name in policy if name in POLICIES and policy[name] is not None]
    if len(named) > 1:
        yield problem(document, (*path, named[-1]), f"mlPolicy has {' and '.join(named)}: it can have one", at_key=True)


def _train_job(uri: str) -> str:
    return f"""\
apiVersion: trainer.kubeflow.org/v1alpha1
kind: TrainJob
metadata:
  name: finetune
spec:
  runtimeRef:
    name: torch-distributed
  initializer:
    model:
      storageUri: {uri}
"""


_MANAGERS = ("trainer.kubeflow.org/trainjob-controller", "kueue.x-k8s.io/multikueue")


@rule(
    id="IL031",
    name="train-job-value-refused",
    family="schema",
    severity=Severity.ERROR,
    subject=Document,
    summary="a storageUri without a scheme, or a manager that there is not, in a TrainJob",
    why="The initializers read hf://, s3:// and others, and which it is stands before the ://; a plain hub name is "
    "refused. managedBy is Trainer's own controller or Kueue's MultiKueue. Both stand as expressions in the "
    "definition, so that no table of types has them.",
    bad=_train_job("meta-llama/Llama-3.2-1B"),
    good=_train_job("hf://meta-llama/Llama-3.2-1B"),
    sources=(
        Source(
            "https://github.com/kubeflow/trainer/blob/v2.3.0/pkg/apis/trainer/v1alpha1/trainjob_types.go",
            "storageUri may be empty, or it must be a valid URI; who may manage",
        ),
    ),
)
def train_job_value_refused(document: Document, _context: Context) -> Iterator[Problem]:
    if document.kind != "TrainJob":
        return
    for part in ("dataset", "model"):
        path: Path = ("spec", "initializer", part, "storageUri")
        uri = look.text(document.obj, path)
        scheme, is_uri, rest = uri.partition("://")
        if not uri or PLACEHOLDER.search(uri):
            continue
        if not is_uri or not rest or not scheme[:1].isalpha():
            is_hub_name = uri.count("/") == 1 and not uri.startswith(("/", "."))
            edit = edits.replace(document, path, edits.scalar(f"hf://{uri}")) if is_hub_name and not is_uri else None
            yield problem(
                document,
                path,
                f"storageUri {uri} has no scheme",
                help="write hf://, s3://, pvc:// or another before it",
                patch=Patch(title="read it from the hub", edits=(edit,), is_safe=False) if edit is not None else None,
            )
    manager = look.text(document.obj, ("spec", "managedBy"))
    if manager and manager not in _MANAGERS and not PLACEHOLDER.search(manager):
        yield problem(document, ("spec", "managedBy"), f"managedBy must be {' or '.join(_MANAGERS)}")


@rule(
    id="IL634",
    name="fungibility-preference-alone",
    family="queue",
    severity=Severity.ERROR,
    subject=Document,
    summary="a preference between borrowing and preemption in a ClusterQueue that stops at the first flavor",
    why="preference says which flavor is best of all that were looked at. Kueue looks at all of them only with "
    "TryNextFlavor for whenCanBorrow and for whenCanPreempt, and the first is MayStopSearch by default: the API "
    "server refuses the preference without them.",
    bad="""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: ClusterQueue
metadata:
  name: team-a
spec:
  namespaceSelector: {}
  flavorFungibility:
    preference: PreemptionOverBorrowing
""",
    good="""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: ClusterQueue
metadata:
  name: team-a
spec:
  namespaceSelector: {}
  flavorFungibility:
    whenCanBorrow: TryNextFlavor
    whenCanPreempt: TryNextFlavor
    preference: PreemptionOverBorrowing
""",
    sources=(
        Source(
            "https://github.com/kubernetes-sigs/kueue/blob/main/apis/kueue/v1beta2/clusterqueue_types.go",
            "preference can only be set when both are TryNextFlavor",
        ),
    ),
)
def fungibility_preference_alone(document: Document, context: Context) -> Iterator[Problem]:
    path: Path = ("spec", "flavorFungibility")
    if document.kind != "ClusterQueue" or is_part(document, context):
        return
    said = look.mapping(document.obj, path)
    defaults = {"whenCanBorrow": "MayStopSearch", "whenCanPreempt": "TryNextFlavor"}
    stops = [name for name, default in defaults.items() if (said.get(name) or default) != "TryNextFlavor"]
    if look.group(document) == "kueue.x-k8s.io" and said.get("preference") and stops:
        yield problem(
            document,
            (*path, "preference"),
            f"preference needs TryNextFlavor for {' and '.join(stops)}",
            at_key=True,
            evidence=tuple(f"{name}: {said.get(name) or f'{defaults[name]} by default'}" for name in stops),
        )
