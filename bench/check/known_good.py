"""What `ironloom check` says of manifests that projects show as examples: every finding, for a person to judge.

    python bench/check/known_good.py CLONES [RENDERED] [--write] [--verdicts bench/check/verdicts.json] [--show RULE]

CLONES is a folder with a git clone of each repository below, named owner+name (its .git, a bare clone, or a bare clone
in a folder `repo` below it). RENDERED is what render.py wrote of their charts and overlays: owner+name/….yaml, each
with the command that rendered it in its first line. Each file is checked by itself, at the commit named here, without
a fleet. A verdict says twice, independently, whether a finding is true of what the file says; without one a finding
counts as not judged.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from ironloom.check import registry
from ironloom.check.engine import Setting, check
from ironloom.check.finding import Severity
from ironloom.check.inputs import Inputs
from ironloom.workload.kinds import workloads_of
from record import write

SOURCES: dict[str, tuple[str, str]] = {
    "kubernetes-sigs/kueue": ("ff69552e79", r"^(site/static/examples|examples|cmd/kueueviz/examples)/"),
    "kserve/kserve": ("aaac4e294", r"^(docs/samples|config/llmisvcconfig|config/runtimes|docs)/"),
    "kubernetes-sigs/jobset": ("08dfbdfd", r"^(examples|site/static/examples)/"),
    "kubernetes-sigs/lws": ("060ab4d", r"^(docs|config/samples|site)/"),
    "kubeflow/trainer": ("8c0f5059b", r"^(examples|manifests/base/runtimes|docs)/"),
    "kubeflow/mpi-operator": ("caa3c47", r"^(examples|proposals)/"),
    "vllm-project/production-stack": ("a6c01db0", r"^(tutorials|examples|deployment_on_cloud|observability|docs)/"),
    "coreweave/nccl-tests": ("cb86553", r"."),
    "coreweave/reference-architecture": ("8d7a23a", r"."),
    "ray-project/kuberay": ("feeaf72fa", r"^ray-operator/config/samples/"),
    "AI-Hypercomputer/gpu-recipes": ("2e1fd5e", r"."),
    "awslabs/awsome-distributed-ai": ("95b939cd", r"."),
    "llm-d/llm-d-inference-scheduler": ("520af478", r"^(config/manifests|deploy/environments|test/sidecar)/"),
    "llm-d-incubation/llm-d-modelservice": ("3051935", r"^examples/"),
    "llm-d-incubation/llm-d-infra": ("4f0f8d0", r"^$"),
    "vllm-project/aibrix": ("e3e10f9e", r"^(samples|development/tutorials|benchmarks/scenarios)/"),
    "GoogleCloudPlatform/kubernetes-engine-samples": ("2b503651", r"^ai-ml/"),
}
"""Repository, commit, and which of its paths are examples."""
QUEUES = frozenset({"ClusterQueue", "LocalQueue", "Cohort", "ResourceFlavor", "Topology", "Queue"})
"""Kinds that make no pods and say where pods wait or go."""
RENDERED_BY = "# rendered by: "
NOT_MANIFESTS = re.compile(
    r"(^|/)(\.github|\.tekton|crds?|templates|vendor|patches|workflows|testdata|grafana|dashboards)/"
    r"|(^|/)patch[^/]*\.ya?ml$|[-_]patch\.ya?ml$"
    r"|kustomization|values[^/]*\.ya?ml$|Chart\.ya?ml$|(^|/)\.|docker-compose|conda|environment\.ya?ml$"
)
"""Parts of a chart or of an overlay are no manifests by themselves."""
TEMPLATE = re.compile(r"\{\{|\$\{[A-Za-z_]|\$[A-Z_]{3,}|<[A-Za-z_-]+>|^%", re.MULTILINE)
"""A text with holes in it that somebody is to fill."""


def git(folder: Path, *args: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *args], capture_output=True, text=True, check=True).stdout


def files(clones: Path, repository: str) -> list[tuple[str, str]]:
    """(path, text) of each example that is a whole manifest."""
    commit, pattern = SOURCES[repository]
    folder = clones / repository.replace("/", "+")
    folder = folder / "repo" if (folder / "repo").exists() else folder
    found = []
    for path in git(folder, "ls-tree", "-r", "--name-only", commit).splitlines():
        if not re.search(r"\.ya?ml$", path) or not re.search(pattern, path) or NOT_MANIFESTS.search(path):
            continue
        text = git(folder, "show", f"{commit}:{path}")
        if re.search(r"^apiVersion:", text, re.MULTILINE) and not TEMPLATE.search(text):
            found.append((path, text))
    return found


def rendered(folder: Path, repository: str) -> list[tuple[str, str]]:
    """(path, text) of what was rendered of the repository's charts and overlays, whole manifests by themselves."""
    below = folder / repository.replace("/", "+")
    return [
        (f"rendered/{path.relative_to(below).as_posix()}", path.read_text()) for path in sorted(below.rglob("*.yaml"))
    ]


def num_manifests(inputs: Inputs) -> int:
    """How many of the documents make pods or queues."""
    queues = sum(one.kind in QUEUES for one in inputs.documents)
    return queues + len({id(one.document) for one in workloads_of(inputs.documents).workloads})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clones", type=Path)
    parser.add_argument("rendered", type=Path, nargs="?")
    parser.add_argument("--write", action="store_true", help="write bench/results/check-known-good.json")
    parser.add_argument("--verdicts", type=Path, default=HERE / "verdicts.json")
    parser.add_argument("--show", metavar="RULE", help="print the findings of one rule")
    parser.add_argument("--only", metavar="REPOSITORY")
    options = parser.parse_args()
    verdicts = json.loads(options.verdicts.read_text()) if options.verdicts.exists() else {}
    rules = tuple(registry.load().values())
    rows: list[dict[str, Any]] = []
    numbers: dict[str, dict[str, int]] = {}
    faults: list[str] = []
    for repository in SOURCES:
        if options.only and options.only != repository:
            continue
        num_files = num_documents = num_makers = 0
        more = rendered(options.rendered, repository) if options.rendered else []
        for path, text in [*files(options.clones, repository), *more]:
            command = text.partition("\n")[0].removeprefix(RENDERED_BY) if text.startswith(RENDERED_BY) else ""
            inputs = Inputs()
            inputs.add(path, text)
            result = check(inputs, rules, Setting())
            num_files += 1
            num_documents += result.num_documents
            num_makers += num_manifests(inputs)
            faults += [f"{repository} {path}: {fault}" for fault in result.faults]
            for finding in result.findings:
                key = f"{repository} {path}:{finding.line} {finding.rule}"
                rows.append(
                    {
                        "repository": repository,
                        "commit": SOURCES[repository][0],
                        "path": path,
                        "rendered_by": command,
                        "line": finding.line,
                        "rule": finding.rule,
                        "severity": finding.severity.value,
                        "confidence": finding.confidence.value,
                        "message": finding.message,
                        "evidence": list(finding.evidence),
                        "verdicts": verdicts.get(key, {}).get("verdicts", []),
                    }
                )
        numbers[repository] = {"files": num_files, "documents": num_documents, "manifests": num_makers}
        print(repository, numbers[repository], file=sys.stderr)
    for fault in faults:
        print("FAULT", fault)
    if options.show:
        for row in rows:
            if row["rule"].startswith(options.show):
                print(
                    f"{row['repository']} {row['path']}:{row['line']} {row['rule']} {row['severity']}: {row['message']}"
                )
                print("    ", *row["evidence"], sep="\n      ")
        return
    by_rule = Counter((row["rule"], row["severity"]) for row in rows)
    for (rule, severity), count in sorted(by_rule.items()):
        print(f"{rule} {severity} {count}")
    for severity in Severity:
        of = [row for row in rows if row["severity"] == severity.value]
        judged = [row for row in of if len(row["verdicts"]) == 2]
        false = [row for row in judged if "false" in row["verdicts"]]
        print(f"{severity.value}: {len(of)} findings, {len(judged)} judged twice, {len(false)} false by either")
    if options.write:
        results = {"sources": numbers, "faults": faults, "findings": rows}
        print(write("check-known-good", results, distributions=["pyyaml", "msgspec"], notes=[]))


if __name__ == "__main__":
    main()
