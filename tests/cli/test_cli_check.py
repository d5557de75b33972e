"""`ironloom check` and `ironloom explain` as a person and a CI server use them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from fake_control import Run

from ironloom.workload.manifests.schema import minors

DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
spec:
  replicas: 1
  selector:
    matchLabels: {app: llama}
  template:
    metadata:
      labels: {app: llama}
    spec:
      containers:
      # two GPUs
      - name: server
        image: vllm/vllm-openai:v0.20.0
        args: [--model=Qwen/Qwen3-8B, --tensor-parallel-size=2]
        resources:
          limits:
            nvidia.com/gpu: 2
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "llama.yaml"
    path.write_text(DEPLOYMENT)
    return path


def rules_of(text: str) -> list[str]:
    return [one["rule"] for one in json.loads(text)]


def test_a_finding_is_on_stdout_and_the_status_is_one(run: Run, file: Path) -> None:
    result = run("check", str(file), "--select", "IL301")
    assert result.status == 1
    assert f"{file}:15:" in result.out
    assert "/dev/shm" in result.out
    assert run("check", str(file), "--select", "IL301", "--fail-on", "error").status == 0
    assert run("check", str(file), "--ignore", "IL301,network", "--select", "IL301").status == 0


def test_a_fix_goes_into_the_file_keeps_its_comments_and_leaves_nothing_to_say(run: Run, file: Path) -> None:
    shown = run("check", str(file), "--select", "IL301", "--diff")
    assert "+          medium: Memory" in shown.out
    assert file.read_text() == DEPLOYMENT, "--diff changes nothing"
    result = run("check", str(file), "--select", "IL301", "--fix")
    assert (result.status, result.err) == (0, "1 fixed.\n")
    after = file.read_text()
    assert "      # two GPUs\n      - name: server\n" in after
    assert set(DEPLOYMENT.splitlines()) <= set(after.splitlines()), "no line is lost"
    assert run("check", str(file), "--select", "IL301", "--fix").err == "There is nothing that --fix can mend.\n"


def test_a_diff_shows_what_fixing_again_and_again_comes_to(run: Run, file: Path) -> None:
    """Two fixes that add at one place go in one after the other."""
    result = run("check", str(file), "--select", "IL301,IL530", "--diff", "--unsafe-fixes")
    assert "+        readinessProbe:" in result.out
    assert "+        volumeMounts:" in result.out
    assert run("check", str(file), "--select", "IL301,IL530", "--fix", "--unsafe-fixes").err == "2 fixed.\n"
    assert run("check", str(file), "--select", "IL301,IL530", "--diff").out == ""


def test_a_diff_says_what_cannot_be_read_beside_it(run: Run, file: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [")
    result = run("check", str(bad), str(file), "--select", "IL301", "--diff")
    assert result.status == 2
    assert "+          medium: Memory" in result.out
    assert result.err.startswith(f"{bad}:1:4: not YAML")
    assert run("check", str(bad), "--diff").err.startswith("There is nothing that --fix can mend.\n")


def test_standard_input_is_checked_and_not_fixed(run: Run) -> None:
    assert rules_of(run("check", "-", "--select", "IL301", "-o", "json", stdin=io.StringIO(DEPLOYMENT)).out) == [
        "IL301"
    ]
    result = run("check", "-", "--fix", stdin=io.StringIO(DEPLOYMENT))
    assert result.status == 2
    assert result.err == "Standard input has no file to put fixes into.\n\nhint: --diff shows them.\n"


def test_a_baseline_silences_what_was_there_and_not_what_is_new(run: Run, file: Path, tmp_path: Path) -> None:
    baseline = tmp_path / "baseline.json"
    assert run("check", str(file), "--write-baseline", str(baseline)).status == 0
    assert run("check", str(file), "--baseline", str(baseline)).status == 0
    file.write_text(DEPLOYMENT.replace("replicas: 1", "replicas: 1\n  replica: 2"))
    result = run("check", str(file), "--baseline", str(baseline), "-o", "json")
    assert result.status == 1
    assert len(rules_of(result.out)) == 1


def test_files_that_can_be_read_are_checked_beside_one_that_cannot(run: Run, file: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [\n")
    result = run("check", str(bad), str(file), str(tmp_path / "none.yaml"), "--select", "IL301", "-o", "json")
    assert result.status == 2, "unreadable outranks found"
    assert sorted(rules_of(result.out)) == ["IL000", "IL000", "IL301"]


def test_a_config_file_is_found_upward_and_options_go_over_it(
    run: Run, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ironloom.toml").write_text('[check]\nselect = ["IL301"]\nfail-on = "error"\n')
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    assert run("check", str(file)).status == 0
    assert run("check", str(file), "--fail-on", "warning").status == 1


def test_a_rule_that_a_config_file_means_and_there_is_none_is_told_with_the_file(
    run: Run, file: Path, tmp_path: Path
) -> None:
    config = tmp_path / "ironloom.toml"
    config.write_text('[check]\nignore = ["IL9999"]\n')
    result = run("check", str(file), "--config", str(config))
    assert result.status == 2
    assert result.err.startswith(f"{config}: no rule is meant by 'IL9999'")


def test_files_of_a_folder_are_left_out_by_a_glob(run: Run, file: Path) -> None:
    (file.parent / "tests").mkdir()
    (file.parent / "tests" / "bad.yaml").write_text("apiVersion: v1\na: [")
    assert run("check", str(file.parent), "--select", "IL301").status == 2
    assert run("check", str(file.parent), "--select", "IL301", "--exclude", "*/tests/*").status == 1
    assert run("check", str(file.parent), "--select", "IL301", "--exclude", "tests/*").status == 1


def test_a_folder_s_other_files_are_told_in_one_block_and_fail_nothing(run: Run, tmp_path: Path) -> None:
    files = {
        "values.yaml": "replicas: 1\n",
        "stack.yaml": "Resources:\n  Bucket: !Sub a\n",
        "odd.yaml": "a: [\n",
        "more.yaml": "b: 1\n",
        "secret.yaml": "apiVersion: v1\nkind: Secret\nmetadata:\n  name: a\ndata:\n  token: {{TOKEN}}\n",
        "chart/Chart.yaml": "name: a\n",
        "chart/templates/a.yaml": "{{ if .Values.a }}\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    result = run("check", str(tmp_path))
    assert result.status == 0
    assert result.out.startswith("note[IL098]: 7 files skipped, in whole or in part\n")
    assert "= it is no Kubernetes object (apiVersion and kind):\n" in result.out
    assert "and 2 more" in result.out
    assert "= its {{ … }} must be filled in before it is YAML:" in result.out
    assert result.out.endswith("There was nothing to check: 0 objects in 7 files checked (7 skipped).\n")
    assert run("check", str(tmp_path), "-o", "github").out.count("::notice") == 0
    assert len(rules_of(run("check", str(tmp_path), "-o", "json").out)) == 7
    assert run("check", str(tmp_path / "secret.yaml")).status == 2, "a file that is named must be a manifest"
    others = [str(tmp_path / name) for name in files]
    assert run("check", *others, "--skip-others").status == 0, "unless it is said that it may be something else"
    (tmp_path / "bad.yaml").write_text("apiVersion: v1\nkind: [\n")
    assert run("check", str(tmp_path)).status == 2, "and one that says that it is"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--select", "IL9999"], "No rule is meant by 'IL9999'"),
        (["--accelerator", "H1000"], "There is no accelerator 'H1000'"),
        (["--kubernetes-version", "new"], "'new' is not a version such as 1.36"),
        (["--kubernetes-version", "2.0"], "'2.0' is not a version such as 1.36"),
        (["--baseline", "none.json"], "the baseline cannot be read"),
        (["--config", "none.toml"], "it cannot be read"),
        (["--config", "/dev/null"], "it has no table [check]"),
        (["--kubernetes-version", f"1.{'9' * 5000}"], "is not a version such as 1.36"),
        (["--fleet", "none.json"], "none.json"),
    ],
)
def test_bad_use_is_a_sentence_and_status_two(run: Run, file: Path, args: list[str], words: str) -> None:
    result = run("check", str(file), *args)
    assert result.status == 2
    assert words in result.err
    assert "Traceback" not in result.err


def test_a_baseline_inside_the_folder_is_no_file_to_check(run: Run, file: Path) -> None:
    folder = str(file.parent)
    (file.parent / "[old]").mkdir()
    baseline = str(file.parent / "[old]" / "baseline.json")
    for _ in range(2):
        assert run("check", folder, "--write-baseline", baseline).status == 0
        assert run("check", folder, "--baseline", baseline, "-o", "json", "--select", "IL098").out.strip() == "[]"
    assert "IL098" in run("check", folder, "-o", "json").out, "without it, it is one of the folder"


def test_a_version_that_no_table_is_of_is_told(run: Run, file: Path) -> None:
    oldest, newest = minors()
    assert run("check", str(file), "--kubernetes-version", f"1.{newest}").err == ""
    assert run("check", str(file), "--kubernetes-version", f"1.{oldest}").err == ""
    before = run("check", str(file), "--kubernetes-version", "1.20").err
    assert f"No table is of Kubernetes 1.20: kinds and fields are held against 1.{oldest}, the oldest" in before
    after = run("check", str(file), "--kubernetes-version", "1.99").err
    assert f"No table is of Kubernetes 1.99: kinds and fields are held against 1.{newest}, the newest" in after


def test_explain_tells_a_rule_and_lists_them(run: Run) -> None:
    told = run("explain", "il301").out
    assert told.startswith("IL301 ")
    assert "Sources:\n  https://" in told
    assert run("explain").out.count("\nIL") > 60, "at least sixty rules"
    assert run("explain", "IL30").out.count("\nIL30") > 3, "the beginning of an id lists its rules"
    assert {one["family"] for one in json.loads(run("explain", "gang", "-o", "json").out)} == {"gang"}
    assert run("explain", "IL3000").status == 2


@pytest.mark.parametrize(
    ("rule", "how"),
    [
        ("IL301", "the annotation `ironloom.dev/ignore: IL301 reason`"),
        ("IL711", "a comment `# ironloom: ignore IL711 reason`"),
        ("IL000", "It cannot be ignored"),
        ("IL099", "`--ignore IL099`"),
    ],
)
def test_explain_says_how_a_rule_is_silenced(run: Run, rule: str, how: str) -> None:
    assert how in run("explain", rule).out


def test_a_note_on_a_kind_that_is_not_known_is_ignored_as_any_finding(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "teapot.yaml"
    path.write_text("apiVersion: example.org/v1\nkind: Teapot\nmetadata:\n  name: a\n")
    assert rules_of(run("check", str(path), "-o", "json").out) == ["IL098"]
    path.write_text(f"{path.read_text()}  annotations:\n    ironloom.dev/ignore: IL098 it is ours\n")
    assert rules_of(run("check", str(path), "-o", "json").out) == []
