"""What the API server refuses, told at its place, with the edit that mends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ironloom.check import registry
from ironloom.check.engine import Setting, check
from ironloom.check.finding import Finding, Severity
from ironloom.check.inputs import read_texts
from ironloom.check.rules import examples
from ironloom.workload.manifests import openapi

ARTICLE = Path(__file__).parents[3] / "shared" / "data" / "article_listings" / "deployment.yaml"
RULES = registry.select(["schema", "deprecated"])


def findings(text: str, setting: Setting | None = None, **files: str) -> list[Finding]:
    texts = {"a.yaml": text, **{name.replace("_yaml", ".yaml"): content for name, content in files.items()}}
    result = check(read_texts(texts), RULES, setting or Setting())
    assert result.faults == ()
    return list(result.findings)


def ids(text: str, setting: Setting | None = None, **files: str) -> list[str]:
    return [finding.rule for finding in findings(text, setting, **files)]


def mended(text: str, found: list[Finding]) -> str:
    """The text with the patches of the findings applied."""
    edits = [edit for finding in found if finding.patch for edit in finding.patch.edits]
    for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


BARE = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: llama}
spec:
  template:
    spec:
      containers:
      - {name: main, image: "vllm/vllm-openai:v0.11.0"}
"""
POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  containers:
  - name: main
    image: vllm
"""


@pytest.mark.parametrize(
    ("line", "rule", "place"),
    [
        ("    comand: [a]\n", "IL001", (9, 5)),
        ("    stdin: 'true'\n", "IL002", (9, 12)),
        ("    stdin: {a: b}\n", "IL002", (9, 12)),
        ("    ports: [{name: a}]\n", "IL003", (9, 13)),
        ("    imagePullPolicy: always\n", "IL004", (9, 22)),
        ("    ports: [{containerPort: 70000000000}]\n", "IL004", (9, 29)),
        ("    env: [{name: A, value: x}, {name: A, value: y}]\n", "IL007", (9, 32)),
        ("    volumeMounts: [{name: a, mountPath: /a}]\n", "IL014", (9, 27)),
        ("    ports: [{containerPort: 80, name: Http}]\n", "IL011", (9, 39)),
        ("    livenessProbe: {periodSeconds: 5}\n", "IL016", (9, 5)),
    ],
)
def test_a_slip_stands_where_it_was_made(line: str, rule: str, place: tuple[int, int]) -> None:
    (finding,) = findings(POD + line)
    assert (finding.rule, finding.line, finding.column) == (rule, *place)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("    imagePullPolicey: Always # keep\n", "    imagePullPolicy: Always # keep\n"),
        ("    imagePullPolicy: always\n", "    imagePullPolicy: Always\n"),
        ("    env:\n    - {name: A, value: 0x1F}\n", '    env:\n    - {name: A, value: "0x1F"}\n'),
        ("    env:\n    - {name: A, value: yes}\n", '    env:\n    - {name: A, value: "yes"}\n'),
        ("    ports:\n    - containerPort: '8000'\n", "    ports:\n    - containerPort: 8000\n"),
    ],
)
def test_a_slip_is_mended_and_nothing_else_is_touched(wrong: str, right: str) -> None:
    found = findings(POD + wrong)
    assert [finding.patch.is_safe for finding in found if finding.patch] == [True]
    assert mended(POD + wrong, found) == POD + right
    assert findings(POD + right) == []


def test_a_misspelt_field_whose_right_name_is_there_is_not_renamed() -> None:
    (finding,) = findings(POD + "    args: [a]\n    arg: [b]\n")
    assert finding.rule == "IL001"
    assert finding.patch is None


def test_a_word_that_something_fills_in_is_no_wrong_value() -> None:
    assert ids(POD + "    imagePullPolicy: ${POLICY}\n    tty: '{{ tty }}'\n    stdin: SET_STDIN_HERE\n") == []


DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
spec:
  template:
    metadata:
      labels:
        app: llama
        tier: gpu
    spec:
      containers:
      - name: main
        image: vllm
"""


def test_a_missing_selector_is_made_of_the_template_s_labels() -> None:
    found = findings(DEPLOYMENT)
    assert [(finding.rule, finding.line, finding.evidence) for finding in found] == [("IL003", 5, ())]
    made = mended(DEPLOYMENT, found)
    assert "  selector:\n    matchLabels:\n      app: llama\n      tier: gpu\n" in made
    assert findings(made) == []


@pytest.mark.parametrize("labels", ["app: other", "tier: gpu"])
def test_a_selector_must_match_its_own_template(labels: str) -> None:
    text = DEPLOYMENT.replace("  template:", f"  selector: {{matchLabels: {{app: llama, {labels}}}}}\n  template:")
    text = text.replace("        tier: gpu\n", "")
    if labels == "app: other":
        text = text.replace("app: llama, app: other", "app: other")
    assert ids(text) == ["IL013"]


def test_a_selector_of_something_else_than_text_is_told_and_not_tripped_over() -> None:
    text = DEPLOYMENT.replace("  template:", "  selector: {matchLabels: {app: llama, a: [b]}}\n  template:")
    assert ids(text) == ["IL002", "IL013"]


@pytest.mark.parametrize(
    ("kind", "name", "is_right"),
    [
        ("Service", "llama-3", True),
        ("Service", "llama-3.1", False),
        ("Service", "a" * 64, False),
        ("ConfigMap", "llama-3.1", True),
        ("ConfigMap", "Llama", False),
        ("ConfigMap", "a..b", False),
        ("ConfigMap", "${NAME}", True),
    ],
)
def test_a_name_is_what_its_kind_takes(kind: str, name: str, is_right: bool) -> None:
    spec = "spec: {ports: [{port: 80}]}\n" if kind == "Service" else ""
    found = ids(f"apiVersion: v1\nkind: {kind}\nmetadata:\n  name: {name}\n{spec}")
    assert found == ([] if is_right else ["IL010"])


@pytest.mark.parametrize(
    ("label", "is_right"),
    [
        ("model: Llama-3.1-8B", True),
        ("model: ''", True),
        ("model: meta-llama/Llama", False),
        (f"model: {'a' * 64}", False),
        ("example.org/model: a", True),
        ("example.org/a/model: a", False),
        ("-model: a", False),
    ],
)
def test_a_label_is_what_kubernetes_takes(label: str, is_right: bool) -> None:
    found = ids(f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  labels:\n    {label}\n")
    assert found == ([] if is_right else ["IL012"])


def test_an_annotation_takes_any_value() -> None:
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  annotations:\n    model: meta-llama/Llama\n"
    assert ids(text) == []


def test_a_field_is_judged_by_the_version_that_is_asked_for() -> None:
    text = POD.replace("spec:\n", "spec:\n  hostnameOverride: a\n")
    assert ids(text) == []
    assert ids(text, Setting(kubernetes_version=(1, 34))) == []
    (finding,) = findings(text, Setting(kubernetes_version=(1, 33)))
    assert finding.message == "spec.hostnameOverride is a field of Kubernetes 1.34 and newer, not of 1.33"


def test_a_kind_is_judged_by_the_version_that_is_asked_for() -> None:
    text = "apiVersion: resource.k8s.io/v1\nkind: DeviceClass\nmetadata:\n  name: a\nspec: {}\n"
    assert ids(text, Setting(kubernetes_version=(1, 34))) == []
    assert ids(text, Setting(kubernetes_version=(1, 33))) == ["IL006"]


@pytest.mark.parametrize(
    ("header", "rules"),
    [
        ("apiVersion: apps/v1\nkind: Deploymnet", ["IL005"]),
        ("apiVersion: serving.kserve.io/v1\nkind: InferenceService", ["IL005"]),
        ("apiVersion: kubeflow.org/v1\nkind: Notebook", []),
        ("apiVersion: example.org/v1\nkind: Anything", []),
        ("apiVersion: policy/v1beta1\nkind: PodSecurityPolicy", ["IL901"]),
    ],
)
def test_a_kind_that_its_group_does_not_have_is_told(header: str, rules: list[str]) -> None:
    assert ids(f"{header}\nmetadata:\n  name: a\n") == rules


def test_a_cluster_s_own_kinds_are_what_counts() -> None:
    thing = {
        "x-kubernetes-group-version-kind": [{"group": "", "version": "v1", "kind": "Pod"}],
        "properties": {field: {} for field in ("apiVersion", "kind", "metadata", "spec")},
    }
    setting = Setting(schema=openapi.from_openapi([{"components": {"schemas": {"Pod": thing}}}]))
    assert ids(POD, setting) == []
    scaler = "apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nmetadata: {name: a}\n"
    scaler += "spec: {scaleTargetRef: {name: a}, triggers: [{type: cpu, metadata: {}}]}\n"
    (finding,) = findings(scaler, setting)
    assert finding.message == "this cluster has no kind ScaledObject of keda.sh/v1alpha1"


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService", "`ironloom apply -f FILE --context NAME`"),
        ("apiVersion: trainer.kubeflow.org/v1alpha1\nkind: TrainJob", "`ironloom apply -f FILE --context NAME`"),
        ("apiVersion: keda.sh/v1alpha1\nkind: ScaledObject", "install the controller that brings it"),
    ],
)
def test_a_kind_without_its_controller_is_told_with_what_runs_it_there(header: str, said: str) -> None:
    served = frozenset({"/v1/Pod", "batch/v1/Job"})
    setting = Setting(fleet=examples.fleet(examples.node("x1"), kinds_served=served))
    found = findings(f"{header}\nmetadata: {{name: a}}\nspec: {{}}\n", setting)
    (told,) = [one for one in found if one.rule == "IL005"]
    assert told.help.startswith(said)


def test_a_fleet_that_says_which_kinds_it_serves_is_believed() -> None:
    scaler = "apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nmetadata: {name: a}\n"
    scaler += "spec: {scaleTargetRef: {name: a}, triggers: [{type: cpu, metadata: {}}]}\n"
    crd = (
        "---\napiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: a.keda.sh}\nspec:\n"
    )
    crd += "  {group: keda.sh, names: {kind: ScaledObject, plural: a}, scope: Namespaced, versions: []}\n"
    queue = "apiVersion: kueue.x-k8s.io/v1beta1\nkind: LocalQueue\nmetadata: {name: a}\n"

    def setting(*kinds: str) -> Setting:
        served = frozenset({"/v1/Pod", "apiextensions.k8s.io/v1/CustomResourceDefinition", *kinds})
        return Setting(fleet=examples.fleet(examples.node("x1"), kinds_served=served))

    assert ids(POD, setting()) == []
    assert ids(scaler, setting()) == ["IL005"]
    assert ids(scaler, setting("keda.sh/v1alpha1/ScaledObject")) == []
    assert ids(scaler + crd, setting()) == []
    assert ids(queue, setting("kueue.x-k8s.io/v1beta1/LocalQueue")) == ["IL902"]
    found = findings(queue, setting("kueue.x-k8s.io/v1beta2/LocalQueue"))
    assert "apiVersion = 'kueue.x-k8s.io/v1beta1', LocalQueue is in kueue.x-k8s.io/v1beta2" in {
        one.message for one in found
    }


def test_a_cluster_whose_definition_leaves_the_spec_open_is_judged_by_the_package_s_table() -> None:
    kind = {"group": "serving.kserve.io", "version": "v1beta1", "kind": "InferenceService"}
    thing = {
        "x-kubernetes-group-version-kind": [kind],
        "properties": {field: {} for field in ("apiVersion", "kind", "metadata", "spec")},
    }
    setting = Setting(schema=openapi.from_openapi([{"components": {"schemas": {"ISVC": thing}}}]))
    text = ISVC + MODEL.replace("SCHEME", "hf").replace("NAME", "A").replace("env", "envs")
    assert ids(text, setting) == ["IL001"]


def test_a_part_that_a_kustomization_lays_over_another_misses_nothing() -> None:
    part = "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: llama\nspec:\n  replicas: 2\n"
    kustomization = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\npatches:\n- path: a.yaml\n"
    assert "IL003" in ids(part)
    assert ids(part, kustomization_yaml=kustomization) == []
    for file in ("overlay/replicas_patch.yaml", "overlay/patches/replicas.yaml"):
        assert check(read_texts({file: part}), RULES, Setting()).findings == ()


def test_a_workload_without_a_selector_and_without_any_image_is_laid_over_one_that_has_both() -> None:
    head = "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: a\nspec:\n"
    bare = f"{head}  template:\n    spec:\n      containers:\n      - name: main\n        args: [a]\n"
    assert ids(bare) == []
    assert "IL003" in ids(f"{bare}        image: nginx:1.27\n")
    assert "IL019" in ids(bare.replace("  template:", "  selector: {matchLabels: {app: a}}\n  template:"))


@pytest.mark.parametrize(
    ("kustomization", "rules"),
    [
        ("labels:\n- includeSelectors: true\n  pairs: {app: llama}\nresources: [a.yaml]\n", []),
        ("commonLabels: {app: llama}\nresources: [./a.yaml]\n", []),
        ("labels:\n- pairs: {app: llama}\nresources: [a.yaml]\n", ["IL003"]),
        ("commonLabels: {app: llama}\nresources: [b.yaml]\n", ["IL003"]),
        ("labels: [3, {includeSelectors: 'true'}]\nresources: [{a: 1}, a.yaml]\n", ["IL003"]),
    ],
    ids=["includeSelectors", "commonLabels", "labels alone", "another file", "nonsense"],
)
def test_a_selector_that_a_kustomization_puts_in_is_not_missed(kustomization: str, rules: list[str]) -> None:
    head = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
    assert [rule for rule in ids(BARE, kustomization_yaml=head + kustomization) if rule == "IL003"] == rules


def test_so_is_one_of_a_kustomization_above_that_takes_the_folder_in() -> None:
    head = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
    texts = {
        "base/a.yaml": BARE,
        "base/kustomization.yaml": f"{head}resources: [a.yaml, ../base]\n",
        "over/kustomization.yaml": f"{head}commonLabels: {{app: llama}}\nresources: [../base]\n",
    }
    assert check(read_texts(texts), RULES, Setting()).findings == ()
    del texts["over/kustomization.yaml"]
    assert [one.rule for one in check(read_texts(texts), RULES, Setting()).findings] == ["IL003"]


@pytest.mark.parametrize(
    ("version", "rules"),
    [("config.jobset.x-k8s.io/v1alpha1", []), ("jobset.x-k8s.io/v1alpha1", ["IL005"])],
)
def test_a_controller_s_own_settings_are_no_kind_of_its_group(version: str, rules: list[str]) -> None:
    text = f"apiVersion: {version}\nkind: Configuration\nmetadata: {{name: a}}\n"
    assert [one for one in ids(text) if one != "IL098"] == rules


def test_what_kustomize_reads_and_no_api_server_is_judged_by_no_table() -> None:
    delete = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n$patch: delete\n"
    merge = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  $patch: replace\n  a: b\n"
    order = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\nspec:\n  $setElementOrder/volumes: []\n  containers: []\n"
    transformer = "apiVersion: builtin\nkind: PrefixSuffixTransformer\nmetadata:\n  name: a\nprefix: a-\n"
    assert [ids(text) for text in (delete, merge, order)] == [[], [], []]
    assert "IL005" not in ids(transformer)


def test_a_job_must_say_how_its_pods_restart() -> None:
    job = "apiVersion: batch/v1\nkind: Job\nmetadata:\n  name: a\nspec:\n  template:\n    spec:\n"
    containers = "      containers:\n      - name: a\n        image: b\n"
    assert ids(job + containers) == ["IL017"]
    assert ids(job + containers + "      restartPolicy: Always\n") == ["IL017"]
    assert ids(job + containers + "      restartPolicy: Never\n") == []
    made = mended(job + containers, findings(job + containers))
    assert ids(made) == []


def test_a_version_that_went_is_safe_to_change_only_where_the_fields_are_right_in_the_new_one() -> None:
    hpa = "kind: HorizontalPodAutoscaler\nmetadata: {name: a}\nspec:\n  maxReplicas: 2\n"
    hpa += "  scaleTargetRef: {kind: Deployment, name: a}\n"
    by_new = (
        "  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 5}}}]\n"
    )
    by_old = "  metrics: [{type: Resource, resource: {name: cpu, targetAverageUtilization: 5}}]\n"
    for metrics, is_safe in ((by_new, True), (by_old, False)):
        (finding,) = findings(f"apiVersion: autoscaling/v2beta2\n{hpa}{metrics}")
        assert finding.patch is not None
        assert (finding.rule, finding.patch.is_safe) == ("IL901", is_safe)


def test_a_version_that_is_there_yet_is_a_warning() -> None:
    text = "apiVersion: flowcontrol.apiserver.k8s.io/v1beta3\nkind: FlowSchema\nmetadata: {name: a}\n"
    (finding,) = findings(text, Setting(kubernetes_version=(1, 31)))
    assert (finding.rule, finding.severity) == ("IL901", Severity.WARNING)


def test_an_old_metric_is_no_fault_beside_an_old_engine() -> None:
    scaler = (
        "---\napiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nmetadata: {name: a}\nspec:\n"
        "  scaleTargetRef: {name: llama}\n"
        "  triggers:\n  - type: prometheus\n    metadata: {query: 'vllm:gpu_cache_usage_perc', threshold: '1'}\n"
    )
    old, new = (POD.replace("image: vllm", f"image: vllm/vllm-openai:v0.{minor}.0") for minor in (8, 12))
    assert ids(old + scaler) == []
    found = findings(new + scaler)
    assert [finding.rule for finding in found] == ["IL904"]
    assert "query: 'vllm:kv_cache_usage_perc'" in mended(new + scaler, found)


def test_the_listing_of_the_article_is_refused_where_it_lacks_its_selector_and_its_patch_is_valid() -> None:
    if not ARTICLE.exists():
        pytest.skip("the article's listings are not beside the repository")
    text = ARTICLE.read_text(encoding="utf-8")
    found = findings(text)
    assert [(finding.rule, finding.line) for finding in found] == [("IL003", 5)]
    assert found[0].evidence == ("spec.template.metadata.labels is not there either: nothing could be selected",)
    assert findings(mended(text, found)) == []


def jobset(spec: str, *, name: str = "train", jobs: tuple[str, ...] = ("driver", "workers")) -> str:
    text = f"apiVersion: jobset.x-k8s.io/v1alpha2\nkind: JobSet\nmetadata: {{name: {name}}}\nspec:\n"
    text += f"{spec}  replicatedJobs:\n"
    for job in jobs:
        text += f"  - name: {job}\n    replicas: 2\n    template: {{spec: {{completions: 16, completionMode: Indexed, "
        text += "template: {spec: {containers: [{name: a, image: b}]}}}}\n"
    return text


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        (jobset(""), []),
        (jobset("", name="a" * 44), []),  # a…-workers-1-15-abcde has 63 characters
        (jobset("", name="a" * 45), ["IL023"]),
        (jobset("", name="1-train"), ["IL023"]),
        (jobset("  successPolicy: {operator: All, targetReplicatedJobs: [workers]}\n"), []),
        (jobset("  successPolicy: {operator: All, targetReplicatedJobs: [worker]}\n"), ["IL024"]),
        (jobset("  coordinator: {replicatedJob: leader}\n"), ["IL024"]),
        (jobset("  failurePolicy: {rules: [{action: FailJobSet, targetReplicatedJobs: [a]}]}\n"), ["IL024"]),
    ],
)
def test_a_jobset_s_names_fit_each_other_and_a_host_name(text: str, rules: list[str]) -> None:
    assert ids(text) == rules


def test_a_replicated_job_depends_on_earlier_ones_alone() -> None:
    for number, need, rules in ((1, "driver", []), (1, "other", ["IL024"]), (0, "workers", ["IL024"])):
        lines = jobset("").replace("replicas: 2", "replicas: 1").split("  - name: ")
        lines[number + 1] = lines[number + 1].replace(
            "replicas: 1", f"replicas: 1\n    dependsOn: [{{name: {need}, status: Ready}}]"
        )
        assert ids("  - name: ".join(lines)) == rules


ISVC = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: llama}
spec:
  predictor:
"""
MODEL = "    model: {modelFormat: {name: huggingface}, storageUri: SCHEME://a/b, env: [{name: NAME, value: '2'}]}\n"


@pytest.mark.parametrize(
    ("lines", "rules"),
    [
        ("    minReplicas: 1\n", ["IL022"]),
        (MODEL, []),
        ("    containers: [{name: any, image: b}]\n", []),
        (MODEL + "    containers: [{name: sidecar, image: b}]\n", []),
        (MODEL + "    containers: [{name: kserve-container, image: b}]\n", ["IL022"]),
        (MODEL + "    sklearn: {storageUri: hf://a/b}\n", ["IL022"]),
        (MODEL + "    workerSpec: {}\n", ["IL025"]),
        (MODEL.replace("SCHEME", "pvc") + "    workerSpec: {}\n", []),
        (MODEL.replace("SCHEME", "pvc").replace("NAME", "TENSOR_PARALLEL_SIZE") + "    workerSpec: {}\n", ["IL025"]),
    ],
)
def test_a_predictor_is_one_thing_and_over_several_nodes_in_a_volume(lines: str, rules: list[str]) -> None:
    assert ids(ISVC + lines.replace("SCHEME", "hf").replace("NAME", "A")) == rules


@pytest.mark.parametrize(("kind", "is_told"), [("PyTorchJob", True), ("TFJob", False), ("PaddleJob", False)])
def test_a_training_job_has_a_successor_where_a_runtime_is_there_for_it(kind: str, is_told: bool) -> None:
    text = f"apiVersion: kubeflow.org/v1\nkind: {kind}\nmetadata:\n  name: train\n"
    assert ("IL902" in ids(text)) is is_told
