"""Charts and overlays of the known-good repositories, rendered into a folder for known_good.py.

    python bench/check/render.py CLONES RENDERED

Wants `helm` and `kustomize` in PATH; without one of them its part is left out and said. Nothing is fetched: a chart's
dependencies are left out, and an overlay that names a URL is none of these. A file's first line is the command that
rendered it, to be run in the repository at the commit that known_good.py names.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml
from known_good import RENDERED_BY, SOURCES, git

CHARTS: dict[str, tuple[tuple[str, str], ...]] = {
    "vllm-project/production-stack": (("helm", r"^(tutorials/assets/(.*/)?values-.*|helm/values-example)\.yaml$"),),
    "llm-d/llm-d-inference-scheduler": (("config/charts/inferencepool", r"^$"), ("config/charts/standalone", r"^$")),
    "llm-d-incubation/llm-d-infra": (("charts/llm-d-infra", r"^$"),),
    "kubernetes-sigs/kueue": (("charts/kueue", r"^$"),),
    "kubernetes-sigs/jobset": (("charts/jobset", r"^$"),),
    "kubernetes-sigs/lws": (("charts/lws", r"^$"),),
    "kubeflow/trainer": (("charts/kubeflow-trainer", r"^$"),),
    "kserve/kserve": (("charts/kserve-resources", r"^$"), ("charts/kserve-runtime-configs", r"^$")),
}
"""Of each repository: its charts, and the files of values that it shows with each; the first is the chart as it is."""
OVERLAYS: dict[str, str] = {
    "kserve/kserve": r"^(config/runtimes|docs/samples/.*)/",
    "kubernetes-sigs/kueue": r"^(config/(default|kueueviz)|cmd/importer/.*)/",
    "kubernetes-sigs/jobset": r"^config/(default|prometheus)/",
    "kubernetes-sigs/lws": r"^config/(default|samples)/",
    "kubeflow/trainer": r"^manifests/overlays/",
    "vllm-project/aibrix": r"^samples/.*/",
    "llm-d/llm-d-inference-scheduler": r"^(deploy|test/sidecar)/",
    "GoogleCloudPlatform/kubernetes-engine-samples": r"^ai-ml/",
}
"""Of each repository: which of its kustomizations are whole overlays."""
TOPS = frozenset(
    {"ai-ml", "charts", "cmd", "config", "deploy", "docs", "helm", "manifests", "samples", "test", "tutorials"}
)
"""Folders of a repository that charts, overlays and what they name are in."""
NOT_READ = [f":(exclude)*.{suffix}" for suffix in ("png", "svg", "jpg", "gif", "csv", "ipynb", "go", "mp4", "pdf")]
"""What no chart reads; clones may lack large files."""


def commands(repository: str, paths: list[str]) -> Iterator[tuple[str, list[str]]]:
    """(name of the file, command) of everything that is rendered."""
    for chart, pattern in CHARTS.get(repository, ()):
        if f"{chart}/Chart.yaml" not in paths:
            continue
        base = ["helm", "template", "example", chart, "--kube-version", "1.34.0"]
        yield f"helm/{chart}/default.yaml", base
        for values in (path for path in paths if re.search(pattern, path)):
            yield f"helm/{chart}/{values.replace('/', '.')}", [*base, "--values", values]
    overlays = re.compile(OVERLAYS.get(repository, r"^$"))
    for path in paths:
        folder, _, name = path.rpartition("/")
        if name in ("kustomization.yaml", "kustomization.yml", "Kustomization") and overlays.search(path):
            yield (
                f"kustomize/{folder}.yaml",
                ["kustomize", "build", "--load-restrictor", "LoadRestrictionsNone", folder],
            )


def alone(chart: Path) -> None:
    """Take a chart's dependencies out of it, but for those beside it: helm renders none whose parts are not there."""
    if chart.exists():
        told = yaml.safe_load(chart.read_text())
        beside = [one for one in told.pop("dependencies", []) if str(one["repository"]).startswith("file://")]
        for one in beside:
            shutil.copytree(
                chart.parent / one["repository"].removeprefix("file://"), chart.parent / "charts" / one["name"]
            )
        if beside:
            told["dependencies"] = beside
        chart.write_text(yaml.safe_dump(told))
        chart.with_name("Chart.lock").unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clones", type=Path)
    parser.add_argument("rendered", type=Path)
    options = parser.parse_args()
    for tool in ("helm", "kustomize"):
        if shutil.which(tool) is None:
            print(f"{tool} is not in PATH: its part is left out", file=sys.stderr)
    for repository in sorted({*CHARTS, *OVERLAYS} & {*SOURCES}):
        commit, name = SOURCES[repository][0], repository.replace("/", "+")
        folder = options.clones / name
        folder = folder / "repo" if (folder / "repo").exists() else folder
        paths = git(folder, "ls-tree", "-r", "--name-only", commit).splitlines()
        tops = sorted({path.split("/")[0] for path in paths} & TOPS)
        with tempfile.TemporaryDirectory() as work:
            said = ["git", "-C", str(folder), "archive", commit, *tops, *NOT_READ]
            archive = subprocess.Popen(said, stdout=subprocess.PIPE)
            subprocess.run(["tar", "-x", "-C", work], stdin=archive.stdout, check=False)
            archive.wait()
            for chart, _ in CHARTS.get(repository, ()):
                alone(Path(work, chart, "Chart.yaml"))
            for file, command in commands(repository, paths):
                if shutil.which(command[0]) is None:
                    continue
                try:
                    done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=90, check=True)
                except subprocess.CalledProcessError as error:
                    print(f"{repository} {file}: {error.stderr.strip()[-200:]}", file=sys.stderr)
                    continue
                except subprocess.TimeoutExpired:
                    print(f"{repository} {file}: not rendered in 90 s", file=sys.stderr)
                    continue
                out = options.rendered / name / file
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text(f"{RENDERED_BY}{shlex.join(command)}\n{done.stdout}")
                print(repository, file)


if __name__ == "__main__":
    main()
