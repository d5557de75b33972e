from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from fake_control import FakeControl, Run, Terminal, event, replica, run_of, service

from ironloom.cli import waiting
from ironloom.cli.manifests import inference_service, service_name
from ironloom.workload.manifests import parse_object

MANIFEST = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {name}
spec:
  predictor:
    minReplicas: 0
    maxReplicas: 2
    nodeSelector: {{disk: fast}}
    model:
      modelFormat: {{name: huggingface}}
      storageUri: hf://a/b
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL_S", 0.0)
    monkeypatch.setattr(waiting, "SETTLE_S", 0.05)


def test_serve_applies_an_inference_service_and_says_where_it_is(fake: FakeControl, run: Run) -> None:
    result = run("serve", "smollm2-135m-instruct", "--window", "20s", "--park-for", "10m")
    assert result.status == 0
    sent = next(body for _, path, body in fake.calls if path == "/api/v1/apply")
    assert sent == {
        "manifests": [
            {
                "apiVersion": "serving.kserve.io/v1beta1",
                "kind": "InferenceService",
                "metadata": {
                    "name": "smollm2-135m-instruct",
                    "annotations": {"autoscaling.knative.dev/window": "20s", "ironloom.dev/park-for": "600s"},
                },
                "spec": {
                    "predictor": {
                        "minReplicas": 0,
                        "maxReplicas": 1,
                        "model": {
                            "modelFormat": {"name": "huggingface"},
                            "storageUri": "hf://HuggingFaceTB/SmolLM2-135M-Instruct",
                        },
                    }
                },
            }
        ],
        "pvc": {},
    }
    assert result.out.startswith(f"smollm2-135m-instruct is ready at {fake.url}/v1 (on openvino, after ")
    body = '{"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "Say hello."}]}'
    assert result.err == (
        f"\nTry it:\n  curl {fake.url}/v1/chat/completions \\\n"
        f"    -H 'Content-Type: application/json' -d '{body}'\n"
        "  ironloom chat smollm2-135m-instruct\n"
    )


def test_a_dry_run_prints_the_manifest_and_needs_no_daemon(run: Run) -> None:
    result = run(
        "serve", "a/b", "--name", "chat", "--gpus", "2", "--engine", "vllm", "--arg", "--dtype=half", "--dry-run"
    )
    assert (result.status, result.err) == (0, "")
    written = yaml.safe_load(result.out)
    assert json.loads(run("serve", "a/b", "--name", "chat", "--gpus", "2", "--engine", "vllm", "--arg", "--dtype=half",
                          "--dry-run", "-o", "json").out) == written  # fmt: skip
    serving = parse_object(written)
    assert (serving.name, serving.model_uri, serving.runtime) == ("chat", "hf://a/b", "vllm")
    assert serving.resources.num_gpus == 2
    assert "--dtype=half" in " ".join(serving.engine_args).replace(" half", "=half")


def test_what_serve_writes_can_be_applied(fake: FakeControl, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "chat.yaml"
    file.write_text(run("serve", "a/b", "--dry-run").out)
    assert run("apply", "-f", str(file)).out == "service/b created\n"
    assert run("apply", "-f", str(file)).out == "service/b unchanged\n"


def test_serve_returns_at_once_when_asked_to(fake: FakeControl, run: Run) -> None:
    assert run("serve", "a/b", "--no-wait").out == "service/b created\n"
    assert json.loads(run("serve", "a/b", "--no-wait", "-o", "json").out)["name"] == "b"
    assert run("serve", "a/b").err.startswith("service/b is applied already.\n")
    assert json.loads(run("serve", "a/b", "-o", "json").out)["state"] == "ready"


def test_a_service_that_does_not_start_is_an_error_with_its_reason(fake: FakeControl, run: Run) -> None:
    def fail(method: str, path: str) -> None:
        if path == "/api/v1/services/b":
            fake.services["b"].update(state="failed", reason="the engine ended with status 1", replicas=[])
            fake.events.append(event(7, kind="service.failed", service="b"))

    fake.on_call = fail
    result = run("serve", "a/b")
    assert (result.status, result.out) == (1, "")
    assert result.err == (
        "b did not start: the engine ended with status 1.\n"
        "\nhint: it is tried again until `ironloom delete b`; `ironloom describe b` says more.\n"
    )


NO_MODEL = "hf://a/b cannot be had: there is no such repository; it is not tried again until it is applied again"


def _fails_for_good(fake: FakeControl) -> None:
    def fail(method: str, path: str) -> None:
        if (method, path) == ("GET", "/api/v1/services/b"):
            fake.services["b"].update(state="failed", reason=NO_MODEL, replicas=[])
            fake.events.append(event(7, kind="service.failed", service="b"))

    fake.on_call = fail


def test_a_new_service_that_can_never_start_is_taken_back(fake: FakeControl, run: Run) -> None:
    _fails_for_good(fake)
    result = run("serve", "a/b")
    assert (result.status, result.out) == (1, "")
    assert result.err == (
        "b did not start: hf://a/b cannot be had: there is no such repository.\n"
        "\nhint: mend that and serve it again; the service was taken back, so that nothing of it is left.\n"
    )
    assert "b" not in fake.services


def test_a_service_that_was_there_before_stays_when_its_change_cannot_start(fake: FakeControl, run: Run) -> None:
    fake.services["b"] = service("b", manifest={})
    _fails_for_good(fake)
    result = run("serve", "a/b")
    assert result.status == 1
    assert "\nhint: mend that, then apply it again; `ironloom describe b` says more.\n" in result.err
    assert "b" in fake.services


def test_a_failure_of_before_is_not_one_of_this_start(fake: FakeControl, run: Run) -> None:
    fake.services["b"] = service("b", manifest={})
    fake.events = [event(7, kind="service.failed", service="b")]
    steps = iter(["failed", "failed", "ready"])

    def start(_method: str, path: str) -> None:
        if path == "/api/v1/services/b":
            state = next(steps)
            there = [replica("b-new", generation=2)] if state == "ready" else []
            fake.services["b"].update(state=state, reason="an old story", replicas=there, generation=2)

    fake.on_call = start
    assert run("serve", "a/b").out.startswith("b is ready at ")


def test_waiting_is_for_the_new_generation_not_for_the_old_replica(fake: FakeControl, run: Run) -> None:
    fake.services["b"] = service("b", replicas=[replica("b-old")], generation=1, manifest={})
    steps = iter(["starting", "starting", "ready"])

    def roll(_method: str, path: str) -> None:
        if path == "/api/v1/services/b":
            new = replica("b-new", generation=2, state=next(steps), phase="loading")
            fake.services["b"].update(replicas=[replica("b-old"), new], generation=2)

    fake.on_call = roll
    assert run("serve", "a/b").out.startswith("b is ready at ")
    assert next(steps, None) is None, "it was not waited for the new replica"


def test_a_service_that_starts_at_zero_is_not_waited_for_for_ever(fake: FakeControl, run: Run) -> None:
    def to_zero(_method: str, path: str) -> None:
        if path == "/api/v1/services/b":
            fake.services["b"].update(state="zero", replicas=[])

    fake.on_call = to_zero
    assert run("serve", "a/b").out == f"b is at zero at {fake.url}/v1; its first request starts it.\n"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nonsense"], '"nonsense" names no model'),
        (["a/b", "--name", "Foo_"], "metadata.name = 'Foo_', must be"),
        (
            ["a/b", "--name", "Foo_", "--window", "2s"],
            (
                "metadata.name = 'Foo_', must be at most 63 lower-case letters, digits and '-', a letter first.\n"
                "autoscaling.knative.dev/window = '2s', must be whole seconds from 6s to 1h.\n"
            ),
        ),
        (["a/b", "--window", "2s"], "autoscaling.knative.dev/window = '2s', must be"),
        (["a/b", "--window", "soon"], "Invalid value for '--window': 'soon' is not a duration"),
        (
            ["a/b", "--engine", "warp"],
            "--engine is 'warp', and must be one of openvino, llamacpp, transformers, vllm.\n",
        ),
        (["a/b", "--arg=--max-modle-len=9"], "There is no argument --max-modle-len; did you mean --max-model-len?\n"),
        (["a/b", "--arg=--dtype=bf61"], "--dtype = 'bf61', must be one of auto, bfloat16, float, float16, float32"),
        (["a/b", "--min-replicas", "3"], "--max-replicas is 1, and must be at least --min-replicas, 3."),
    ],
)
def test_bad_use_of_serve_is_told_before_anything_is_done(
    args: list[str], said: str, fake: FakeControl, run: Run
) -> None:
    result = run("serve", *args)
    assert result.status == 2
    assert result.err.startswith(said)
    assert fake.calls == []


def test_a_path_with_nothing_there_is_told_before_anything_is_done(fake: FakeControl, run: Run, tmp_path: Path) -> None:
    result = run("serve", str(tmp_path / "no.gguf"))
    assert (result.status, fake.calls) == (1, [])
    assert result.err.startswith(f"There is no file or folder {tmp_path}/no.gguf.\n\nhint: ")


def test_a_path_is_written_whole_since_the_daemon_stands_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my.Model.gguf").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    made = inference_service("./my.Model.gguf", name="x", min_replicas=0, max_replicas=1)
    assert made["spec"]["predictor"]["model"]["storageUri"] == f"file://{tmp_path}/my.Model.gguf"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("smollm2-135m-instruct", "smollm2-135m-instruct"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "qwen2-5-0-5b-instruct"),
        ("hf://a/b:main", "b"),
        ("hf://a/b-GGUF/B-Q4_K_M.gguf", "b-q4-k-m"),
        ("/models/7b/", "m-7b"),
        ("s3://bucket/llama/8b-v2", "m-8b-v2"),
        (f"a/{'x' * 90}", "x" * 63),
    ],
)
def test_a_service_is_named_after_its_model(model: str, name: str) -> None:
    assert service_name(model) == name


def test_apply_shows_what_it_will_do_and_each_note_first(fake: FakeControl, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text(MANIFEST.format(name="one") + "---\n" + MANIFEST.format(name="two"))
    result = run("apply", "-f", str(file))
    assert result.status == 0
    assert result.out == "service/one created\nservice/two created\n"
    head, one, note, two, note_two = result.err.splitlines()
    assert head.split() == ["NAME", "ACTION", "KIND", "MODEL", "REPLICAS"]
    assert one.split() == ["one", "create", "InferenceService", "hf://a/b", "0", "to", "2"]
    assert note == f"  note: {file}:9:5: spec.predictor.nodeSelector: this machine is the only node"
    assert two.split()[:2] == ["two", "create"]
    assert f"{file}:22:5: " in note_two
    file.write_text(MANIFEST.format(name="one").replace("maxReplicas: 2", "maxReplicas: 3"))
    result = run("apply", "-f", str(file), "-o", "json")
    assert result.err.splitlines()[1].split()[:2] == ["one", "configure"]
    assert json.loads(result.out)["services"][0]["action"] == "configured"


def test_as_many_replicas_at_least_as_at_most_are_one_number(fake: FakeControl, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text(MANIFEST.format(name="two").replace("minReplicas: 0", "minReplicas: 2"))
    assert run("apply", "-f", str(file)).err.splitlines()[1].split()[-2:] == ["hf://a/b", "2"]


@pytest.mark.parametrize(
    ("counts", "said"),
    [("", "0 to what fits"), ("maxReplicas: 1", "0 to 1"), ("minReplicas: 2, maxReplicas: 2", "2")],
)
def test_apply_tells_how_many_replicas_there_may_be(counts: str, said: str, run: Run, tmp_path: Path) -> None:
    model = "model: {modelFormat: {name: huggingface}, storageUri: 'hf://a/b'}"
    predictor = ", ".join(
        filter(None, (counts if "min" in counts else f"minReplicas: 0, {counts}".rstrip(", "), model))
    )
    file = tmp_path / "demo.yaml"
    file.write_text(
        "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: demo}\n"
        f"spec: {{predictor: {{{predictor}}}}}\n"
    )
    out = run("apply", "-f", str(file), "--dry-run").out
    assert out.splitlines()[1].endswith(f"   {said}")


def test_apply_says_of_missing_gpus_before_it_does_anything(fake: FakeControl, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(MANIFEST.format(name="one") + "      resources: {limits: {nvidia.com/gpu: 1}}\n")
    said = "  note: 1 GPU (nvidia.com/gpu) asked for; this machine has none, so it runs on the CPU"
    assert said in run("apply", "-f", str(file), "--dry-run").out.splitlines()
    assert not [path for _, path, _ in fake.calls if path == "/api/v1/apply"]
    assert run("apply", "-f", str(file)).err.splitlines().count(said) == 1


def test_apply_reads_folders_stdin_and_several_files(fake: FakeControl, run: Run, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.yaml").write_text(MANIFEST.format(name="one"))
    (tmp_path / "two.yaml").write_text(MANIFEST.format(name="two"))
    args = ["-f", str(tmp_path / "a"), "-f", str(tmp_path / "two.yaml"), "-f", "-"]
    result = run("apply", *args, "--wait", stdin=MANIFEST.format(name="three"))
    assert result.out == "service/one created\nservice/two created\nservice/three created\n"
    assert result.err.count(" is ready after ") == 3
    assert run("delete", *args, stdin=MANIFEST.format(name="three")).out.count(" deleted\n") == 3


def test_a_dry_run_of_apply_changes_nothing_and_prints_what_can_be_applied(
    fake: FakeControl, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(MANIFEST.format(name="one"))
    result = run("apply", "-f", str(file), "--dry-run", "-o", "yaml")
    assert yaml.safe_load(result.out) == yaml.safe_load(file.read_text())
    assert not [path for _, path, _ in fake.calls if path == "/api/v1/apply"]
    assert json.loads(run("apply", "-f", str(file), "--dry-run", "-o", "json").out)["metadata"]["name"] == "one"
    plan = run("apply", "-f", str(file), "--dry-run").out
    assert plan.splitlines()[0].split()[:2] == ["NAME", "ACTION"], "the plan is the data of a dry run"


def test_a_field_that_does_not_exist_is_an_error_with_its_place(fake: FakeControl, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(MANIFEST.format(name="one").replace("minReplicas", "minReplica"))
    result = run("apply", "-f", str(file))
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(f"{file}:7:5: ")
    assert "minReplicas" in result.err
    assert not [path for _, path, _ in fake.calls if path == "/api/v1/apply"]


def test_a_misspelt_engine_argument_is_told_at_its_place_and_nothing_is_applied(
    fake: FakeControl, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "one.yaml"
    good = MANIFEST.format(name="one")
    file.write_text(f"{good}---\n{MANIFEST.format(name='two')}      args: [--seed=1, --max-modle-len=9]\n")
    result = run("apply", "-f", str(file))
    assert (result.status, result.out) == (2, "")
    line = good.count("\n") + 14
    assert result.err.startswith(
        f"{file}:{line}:24: there is no argument --max-modle-len; did you mean --max-model-len?"
    )
    assert "ironloom.dev/unchecked-args" in result.err
    assert not [path for _, path, _ in fake.calls if path == "/api/v1/apply"]


@pytest.mark.parametrize(
    ("text", "status"),
    [("", 2), ("{", 2), ("kind: ConfigMap\napiVersion: v1\nmetadata: {name: x}\n", 2), ("- 1\n", 2)],
)
def test_what_declares_no_service_is_an_error(text: str, status: int, fake: FakeControl, run: Run) -> None:
    result = run("apply", "-f", "-", stdin=text)
    assert (result.status, result.out) == (status, "")
    assert "Traceback" not in result.err


def test_objects_that_are_no_service_are_named_beside_the_kinds_that_are(
    fake: FakeControl, run: Run, tmp_path: Path
) -> None:
    pod = tmp_path / "pod.yaml"
    pod.write_text("apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: a, image: b}]}\n")
    result = run("apply", "-f", str(pod))
    assert (result.status, result.out) == (2, "")
    assert result.err == (
        f"note: {pod}:2:1: kind: Pod web is no workload of this machine: skipped\n"
        "The manifests declare no service and no training run.\n\n"
        "hint: apply takes InferenceService, LLMInferenceService, Deployments of vLLM or Hugging Face images, and "
        "TrainJob, JobSet and PyTorchJob that run ironloom.train.run.\n"
    )


def test_a_file_that_is_not_there_is_an_error(fake: FakeControl, run: Run, tmp_path: Path) -> None:
    result = run("apply", "-f", str(tmp_path / "nope.yaml"))
    assert result.status == 2
    assert str(tmp_path / "nope.yaml") in result.err


def test_a_claims_folder_must_be_there(fake: FakeControl, run: Run, tmp_path: Path) -> None:
    text = MANIFEST.format(name="one").replace("hf://a/b", "pvc://weights/b")
    result = run("apply", "-f", "-", "--pvc", f"weights={tmp_path}", stdin=text)
    assert result.status == 0
    assert next(body for _, path, body in fake.calls if path == "/api/v1/apply")["pvc"] == {"weights": str(tmp_path)}
    assert run("apply", "-f", "-", "--pvc", f"weights={tmp_path}/no", stdin=text).status == 2


@pytest.mark.parametrize(
    ("args", "typed", "status", "asked", "created"),
    [
        ([], "y\n", 0, True, True),
        ([], "\n", 0, True, True),
        ([], "n\n", 1, True, False),
        ([], "", 130, True, False),
        (["-y"], "", 0, False, True),
    ],
)
def test_on_a_terminal_apply_asks(
    args: list[str], typed: str, status: int, asked: bool, created: bool, fake: FakeControl, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(MANIFEST.format(name="one"))
    result = run("apply", "-f", str(file), *args, stdin=Terminal(typed))
    assert result.status == status
    assert ("Apply? [Y/n]" in result.err) is asked
    assert ("one" in fake.services) is created


def test_a_model_that_no_engine_could_find_is_told_at_its_place_before_a_daemon_is_started(
    run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(MANIFEST.format(name="one").replace("hf://a/b", "ftp://x"))
    result = run("apply", "-f", str(file))
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(f'{file}:12:19: "ftp://x" has the scheme "ftp"; a model is hf://')
    assert not (tmp_path / "home").exists()


def test_a_model_that_only_a_cluster_could_find_is_the_matter_of_its_gateway(
    fake: FakeControl, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(MANIFEST.format(name="one").replace("hf://a/b", "gs://bucket/model"))
    assert run("apply", "-f", str(file)).status == 2
    fake.answers["GET", "/api/v1/status"] = (200, fake.status() | {"backend": "kubernetes"})
    assert run("apply", "-f", str(file)).status == 0


def test_a_bound_below_zero_is_told_with_its_path(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(MANIFEST.format(name="one").replace("minReplicas: 0", "minReplicas: -1"))
    result = run("apply", "-f", str(file))
    assert result.err.startswith(f"{file}:7:18: spec.predictor.minReplicas = -1, must be a whole number of at least 0")


def test_a_folder_that_a_run_left_is_served_under_a_name_that_is_free(
    fake: FakeControl, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "terms").mkdir()
    fake.runs["terms"] = run_of("terms", state="succeeded")
    result = run("serve", str(tmp_path / "terms"), "--no-wait")
    assert result.status == 0, result.err
    assert "terms is the name of a run: the service is terms-model" in result.err
    assert "terms-model" in fake.services
    fake.runs["terms-model"] = run_of("terms-model")
    result = run("serve", str(tmp_path / "terms"), "--dry-run")
    assert yaml.safe_load(result.out)["metadata"]["name"] == "terms-model-2"
    result = run("serve", str(tmp_path / "terms"), "--name", "terms", "--dry-run")
    assert yaml.safe_load(result.out)["metadata"]["name"] == "terms", "a name that was said is taken as it is"


def test_a_long_name_leaves_room_for_what_tells_it_from_the_run(fake: FakeControl, run: Run, tmp_path: Path) -> None:
    name = "a" * 63
    (tmp_path / name).mkdir()
    fake.runs[name] = run_of(name)
    result = run("serve", str(tmp_path / name), "--dry-run")
    assert len(yaml.safe_load(result.out)["metadata"]["name"]) <= 63
