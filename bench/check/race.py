"""`ironloom check` beside kube-linter, kubeconform and kubernetes-validate: what each finds, and how long each takes.

    python bench/check/race.py --kube-linter PATH --kubeconform PATH [--rounds 10] [--write]

The peers are built by whoever runs this: kubeconform (https://github.com/yannh/kubeconform) and kube-linter
(https://github.com/stackrox/kube-linter) are Go programs; kubernetes-validate comes with the development requirements
and lends kubeconform its schemas, strict, of the newest version that it has.

    find    of each rule for manifests its two examples, the faulty one and the mended one: a tool finds it when it
            says something of the first that it does not say of the second. The examples are ours, chosen to show our
            rules: the count says what the peers are blind to, not how good they are at what they are made for.
            Examples that need a fleet, an accelerator or a version are left out.
    start   one file, process start to end: interleaved rounds
    rate    a folder of the same manifests many times: documents a second, the start taken off

The package is compiled before, as it is wherever it is installed. In each round a bare Python is started and runs a
fixed loop: what the machine is worth at that moment.
"""

from __future__ import annotations

import argparse
import compileall
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import ironloom
from ironloom.check import registry
from ironloom.check.engine import Setting, check
from ironloom.check.inputs import read_texts
from record import write
from yardstick import Yardstick

NUM_COPIES = 8
VALIDATE = """
import sys, pathlib, yaml, kubernetes_validate as k
for path in sorted(pathlib.Path(sys.argv[1]).rglob("*.yaml")) if pathlib.Path(sys.argv[1]).is_dir() else [sys.argv[1]]:
    try:
        for document in yaml.load_all(open(path), yaml.CSafeLoader):
            k.validate(document, k.latest_version(), strict=True)
    except Exception as error:
        print(path, type(error).__name__, (str(error).splitlines() or [""])[0])
"""


def tools(options: argparse.Namespace, folder: Path) -> dict[str, list[str]]:
    """Command lines; a path goes behind each."""
    found = importlib.util.find_spec("kubernetes_validate")
    if found is None or found.origin is None:
        sys.exit("kubernetes-validate is not installed: make setup")
    newest = sorted((Path(found.origin).parent / "kubernetes-json-schema").glob("*-local-strict"), key=_version)[-1]
    schemas = folder / "schemas"
    schemas.mkdir()
    for schema in newest.glob("*.json"):
        text = schema.read_text().replace("/api/_definitions.json", (schemas / "_definitions.json").as_uri())
        (schemas / schema.name).write_text(text)
    location = f"{schemas}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    return {
        "ironloom": [str(Path(sys.executable).with_name("ironloom")), "check", "-o", "json"],
        "kube-linter": [options.kube_linter, "lint", "--format", "json"],
        "kubeconform": [
            options.kubeconform, "-ignore-missing-schemas", "-output", "json", "-schema-location", location,
        ],
        "kubernetes-validate": [sys.executable, "-c", VALIDATE],
    }  # fmt: skip


def _version(path: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", path.name))


def run(command: list[str], path: Path) -> tuple[str, float, float]:
    """(what it said, seconds, seconds of its processors)."""
    start_s = time.monotonic()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen([*command, str(path)], stdout=out, stderr=subprocess.DEVNULL)
        _, _, usage = os.wait4(process.pid, 0)
        wall_s = time.monotonic() - start_s
        out.seek(0)
        return out.read().decode(errors="replace"), wall_s, usage.ru_utime + usage.ru_stime


def said(tool: str, text: str) -> dict[str, set[str]]:
    """By file, the kinds of thing that a peer said of it, without their places."""
    pairs: list[tuple[str, str]] = []
    if tool == "kube-linter":
        reports = json.loads(text or "{}").get("Reports") or []
        pairs = [(report["Object"]["Metadata"]["FilePath"], report["Check"]) for report in reports]
    elif tool == "kubeconform":
        resources = json.loads(text or "{}").get("resources") or []
        bad = [one for one in resources if one["status"] in {"statusInvalid", "statusError"}]
        pairs = [(one["filename"], re.sub(r"\d+", "", one["msg"])) for one in bad]
    else:
        pairs = [(file, message) for file, _, message in (line.partition(" ") for line in text.splitlines())]
    found: dict[str, set[str]] = {}
    for file, message in pairs:
        found.setdefault(Path(file).name, set()).add(message)
    return found


def find(commands: dict[str, list[str]], folder: Path) -> dict[str, Any]:
    rules = [
        rule
        for rule in registry.load().values()
        if "apiVersion:" in rule.bad and rule.example_fleet is None and not rule.options
    ]
    heard: dict[str, list[dict[str, set[str]]]] = {tool: [] for tool in commands}
    for name, texts in (("bad", [rule.bad for rule in rules]), ("good", [rule.good for rule in rules])):
        inside = folder / name
        inside.mkdir()
        for rule, text in zip(rules, texts, strict=True):
            (inside / f"{rule.id}.yaml").write_text(text)
        for tool, command in commands.items():
            if tool == "ironloom":  # a folder is one run for it: files that belong together
                every = tuple(registry.load().values())
                results = {f"{rule.id}.yaml": check(read_texts({"a.yaml": text}), every, Setting())
                           for rule, text in zip(rules, texts, strict=True)}  # fmt: skip
                heard[tool].append({file: {one.rule for one in result.findings} for file, result in results.items()})
            else:
                heard[tool].append(said(tool, run(command, inside)[0]))
    found = {
        tool: [rule.id for rule in rules if bad.get(f"{rule.id}.yaml", set()) - good.get(f"{rule.id}.yaml", set())]
        for tool, (bad, good) in heard.items()
    }
    return {"num_examples": len(rules), "found": {tool: len(ids) for tool, ids in found.items()}, "rules": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kube-linter", required=True)
    parser.add_argument("--kubeconform", required=True)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    # As pip does when it installs: where bytecode is not written, each start would compile what was edited since.
    compileall.compile_dir(Path(ironloom.__file__).parent, quiet=1)
    examples = [rule.good for rule in registry.load().values() if "apiVersion:" in rule.good]
    with tempfile.TemporaryDirectory(prefix="race-") as name:
        folder = Path(name)
        commands = tools(options, folder)
        one = folder / "one.yaml"
        one.write_text(registry.load()["IL301"].bad)
        many = folder / "many"
        many.mkdir()
        num_documents = 0
        for copy in range(NUM_COPIES):
            for number, text in enumerate(examples):
                (many / f"{number:03d}-{copy:02d}.yaml").write_text(text)
                num_documents += len(re.findall(r"^apiVersion:", text, re.MULTILINE))
        starts: dict[str, list[tuple[float, float]]] = {tool: [] for tool in commands}
        rates: dict[str, list[tuple[float, float]]] = {tool: [] for tool in commands}
        yardstick = Yardstick()
        for number in range(options.rounds):
            yardstick.round()
            for tool, command in commands.items():
                starts[tool].append(run(command, one)[1:])
                if number < max(1, options.rounds // 3) and (tool != "kubernetes-validate" or number == 0):
                    rates[tool].append(run(command, many)[1:])
        results: dict[str, Any] = {
            "num_documents": num_documents, "yardstick": yardstick.summary(), "tools": {}
        }  # fmt: skip
        print(results["yardstick"])
        for tool in commands:
            start_s = statistics.median(wall_s for wall_s, _ in starts[tool])
            start_cpu_s = statistics.median(cpu_s for _, cpu_s in starts[tool])
            whole_s = statistics.median(wall_s for wall_s, _ in rates[tool])
            whole_cpu_s = statistics.median(cpu_s for _, cpu_s in rates[tool])
            results["tools"][tool] = {
                "start_s": round(start_s, 3),
                "start_lowest_s": round(min(wall_s for wall_s, _ in starts[tool]), 3),
                "start_cpu_s": round(start_cpu_s, 3),
                "documents_per_s": round(num_documents / (whole_s - start_s)),
                "documents_per_cpu_s": round(num_documents / (whole_cpu_s - start_cpu_s)),
                "all_starts_s": [round(wall_s, 3) for wall_s, _ in starts[tool]],
                "all_folders_s": [round(wall_s, 2) for wall_s, _ in rates[tool]],
            }
            print(tool, results["tools"][tool], flush=True)
        results["find"] = find(commands, folder)
    print(results["find"]["num_examples"], results["find"]["found"])
    if options.write:
        notes = ["kube-linter and kubeconform use several threads; documents_per_cpu_s counts all of them"]
        print(write("check-race", results, distributions=["pyyaml", "msgspec", "kubernetes-validate"], notes=notes))


if __name__ == "__main__":
    main()
