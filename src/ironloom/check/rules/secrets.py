"""Tokens and keys that stand in a manifest for everybody to read."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ironloom.check import look, pods
from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import Container, Workload

SECRETS_DOCS = Source(
    "https://kubernetes.io/docs/concepts/configuration/secret/", "what a Secret is for, and who may read one"
)
_FORMS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("a Hugging Face token", re.compile(r"\bhf_[A-Za-z0-9]{30,}\b")),
    ("a key in OpenAI's form", re.compile(r"\bsk-(?:proj-|svcacct-)?[A-Za-z0-9_-]{32,}")),
    ("an Anthropic key", re.compile(r"\bsk-ant-[A-Za-z0-9_-]{32,}")),
    ("an NVIDIA API key", re.compile(r"\bnvapi-[A-Za-z0-9_-]{40,}")),
    ("a GitHub token", re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,})")),
    ("a GitLab token", re.compile(r"\bglpat-[A-Za-z0-9_-]{20,}")),
    ("a Slack token", re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{20,}")),
    ("an AWS access key", re.compile(r"\bAKIA[0-9A-Z]{16}\b")),
    ("a private key", re.compile(r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----")),
)
"""What issuers of tokens say that theirs look like."""
_NAMED = frozenset(
    {
        "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN", "HF_API_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY",
        "ANTHROPIC_API_KEY", "VLLM_API_KEY", "NGC_API_KEY", "NVIDIA_API_KEY", "AWS_SECRET_ACCESS_KEY", "COMET_API_KEY",
        "MLFLOW_TRACKING_PASSWORD", "GITHUB_TOKEN", "LANGFUSE_SECRET_KEY",
    }
)  # fmt: skip
"""Variables whose value is a secret whatever it looks like."""
_OPTIONS = re.compile(r"^--?(?:api-?key|hf-?token|hugging-?face-?token)$")
_MIN_CHARS = 12
_NOT_REAL = re.compile(
    r"[<>{}$()\[\]*\s]|x{3,}|\.\.\.|your|change|replace|example|placeholder|dummy|fake|sample|insert|"
    r"secret-?key|token-?here|empty|none|test",
    re.IGNORECASE,
)
"""In a value that stands for one: `<YOUR_HF_TOKEN>`, `$(TOKEN)`, `hf_xxx`."""
_HELP = "put it into a Secret and name it with valueFrom.secretKeyRef; revoke the one that was written here"


def kind_of(text: str) -> str:
    """Whose token stands in a text, by its form; empty for none."""
    for name, form in _FORMS:
        found = form.search(text)
        if found and not _NOT_REAL.search(found.group().replace("PRIVATE KEY", "").replace(" ", "")):
            return name
    return ""


def _is_secret(value: str) -> bool:
    """Whether a value that is meant to be a secret is one: long, of letters and digits, and standing for nothing."""
    is_mixed = any(one.isdigit() for one in value) and any(one.isalpha() for one in value)
    return len(value) >= _MIN_CHARS and is_mixed and not _NOT_REAL.search(value)


@rule(
    id="IL801",
    name="secret-in-plain-text",
    family="security",
    severity=Severity.WARNING,
    subject=Workload,
    summary="a token or key as a plain value, argument or script",
    why="Whoever may read the object reads the token: in kubectl, in the repository and its history, in backups, in "
    "every tool that lists pods; arguments stand in the node's process table too. A Hugging Face token opens every "
    "private and gated model of its owner. A Secret has its own permissions, and the manifest only its name.",
    bad="""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
spec:
  selector:
    matchLabels:
      app: llama
  template:
    metadata:
      labels:
        app: llama
    spec:
      containers:
      - name: main
        image: vllm/vllm-openai:v0.11.0
        args: [--model=meta-llama/Llama-3.1-8B-Instruct]
        env:
        - name: VLLM_API_KEY
          value: correct7horse9battery
""",
    good="""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
spec:
  selector:
    matchLabels:
      app: llama
  template:
    metadata:
      labels:
        app: llama
    spec:
      containers:
      - name: main
        image: vllm/vllm-openai:v0.11.0
        args: [--model=meta-llama/Llama-3.1-8B-Instruct]
        env:
        - name: VLLM_API_KEY
          valueFrom:
            secretKeyRef:
              name: llama
              key: api-key
""",
    sources=(
        Source(
            "https://github.com/vllm-project/production-stack/issues/14", "tokens as plain variables in deployments"
        ),
        Source("https://github.com/kserve/kserve/issues/4674", "a token that an init container shows as plain text"),
        SECRETS_DOCS,
    ),
)
def secret_in_plain_text(workload: Workload, _context: Context) -> Iterator[Problem]:
    for pod_set in workload.pod_sets:
        if not pod_set.is_written:
            continue
        for container in pod_set.containers:
            for path, what, confidence in plain_secrets(container):
                yield problem(
                    workload.document,
                    path,
                    f"{what} stands in the manifest: whoever reads the object has it",
                    help=_HELP,
                    confidence=confidence,
                )


def plain_secrets(container: Container) -> Iterator[tuple[Path, str, Confidence]]:
    """(path, what it is, how sure) of every secret that is written out."""
    for name, value in container.env.items():
        path = (*container.env_paths.get(name, container.path), "value")
        kind = kind_of(value or "")
        if kind:
            yield path, f"{kind} (variable {name})", Confidence.CERTAIN
        elif name in _NAMED and value and _is_secret(value):
            yield path, f"the value of {name}", Confidence.LIKELY
    told: list[str] = []
    for key in ("command", "args"):
        for index, part in enumerate(look.entries(container.spec, (key,))):
            kind = kind_of(part) if isinstance(part, str) else ""
            if kind:
                told.append(part)
                yield (*container.path, key, index), f"{kind} in the command line", Confidence.CERTAIN
    for launch in pods.launches(container):
        for option in launch.options:
            value = option.value or ""
            if _OPTIONS.match(option.name) and _is_secret(value) and not any(value in text for text in told):
                told.append(value)
                yield option.path, f"the value of {option.name}", Confidence.LIKELY


@rule(
    id="IL802",
    name="secret-in-config-map",
    family="security",
    severity=Severity.WARNING,
    subject=Document,
    summary="a token or key in a ConfigMap",
    why="ConfigMaps are for what everybody may know: most roles that may look at a namespace may read them, and "
    "nothing encrypts them at rest. A token in one is a token that is published to the cluster.",
    bad="""\
apiVersion: v1
kind: ConfigMap
metadata:
  name: serving
data:
  VLLM_API_KEY: correct7horse9battery
""",
    good="""\
apiVersion: v1
kind: ConfigMap
metadata:
  name: serving
data:
  HF_HOME: /models
""",
    sources=(
        Source("https://github.com/opea-project/GenAIInfra/issues/199", "a Hugging Face token in a ConfigMap"),
        SECRETS_DOCS,
    ),
)
def secret_in_config_map(document: Document, _context: Context) -> Iterator[Problem]:
    if document.kind != "ConfigMap" or look.group(document):
        return
    for key, value in look.mapping(document.obj, ("data",)).items():
        kind = kind_of(value) if isinstance(value, str) else ""
        named = key in _NAMED and isinstance(value, str) and _is_secret(value)
        if kind or named:
            yield problem(
                document,
                ("data", key),
                f"{kind or f'the value of {key}'} stands in a ConfigMap, which everybody in the namespace may read",
                help="put it into a Secret; revoke the one that was written here",
                confidence=Confidence.CERTAIN if kind else Confidence.LIKELY,
            )
