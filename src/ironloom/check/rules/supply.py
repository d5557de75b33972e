"""Where what runs comes from: images and model code that change without the manifest changing."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ironloom.check import look, pods
from ironloom.check.finding import Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules.security import own_containers
from ironloom.workload.workload import Launch, Workload

_MOVING = re.compile(r"(?:^|[-_.])(?:latest|nightly|main|master|edge|dev|devel|stable|head|tip)$")
"""Ends of tags that are written anew: `latest`, `cuda-nightly`."""
_COMMITTED = re.compile(r"[0-9a-f]{7,}")
"""A commit in a tag: `nightly-4f1c2ab`."""
_PLACEHOLDER = re.compile(
    r"[${}<>\s]|^ko://|(?<![a-z])(?:placeholder|change-?me|replace-?me|to-be-replaced|your)(?![a-z])", re.IGNORECASE
)
"""A name that a person or a tool is to fill in."""
_LIBRARY = frozenset({"alpine", "busybox", "debian", "fedora", "node", "python", "pytorch", "ubuntu"})
"""Names that Docker Hub has without an owner. Any other bare name is of an image that is built or put in later."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_LOCAL = ("/", "./", "../")
_HUB_URI = ("hf://", "huggingface://")


def moving_tag(image: str) -> str | None:
    """The tag of an image that can come to mean another one (`latest` where none is written); None for a pinned one."""
    if not image or "@" in image or is_placeholder(image):
        return None
    name, colon, tag = image.rpartition(":")
    if not colon or "/" in tag:  # the colon of a registry's port
        return "latest"
    if not name or _COMMITTED.search(tag):
        return None
    return tag if _MOVING.search(tag) else None


def is_placeholder(image: str) -> bool:
    """Whether an image's name is to be filled in, by a person, Helm, kustomize or ko."""
    repository = image if ":" not in image.rpartition("/")[2] else image.rpartition(":")[0]
    if repository != repository.lower():
        return True  # no registry takes capitals
    is_bare = image == repository and "/" not in image and image not in _LIBRARY
    return is_bare or _PLACEHOLDER.search(image) is not None


def _transformed(context: Context) -> frozenset[str]:
    """Names of images that a Kustomization of the run replaces or gives a tag."""
    if "kustomized images" not in context.memo:
        context.memo["kustomized images"] = frozenset(
            look.text(entry, ("name",))
            for document in context.documents
            if look.group(document) == "kustomize.config.k8s.io"
            for entry in look.entries(document.obj, ("images",))
        )
    found: frozenset[str] = context.memo["kustomized images"]
    return found


@rule(
    id="IL810",
    name="image-not-pinned",
    family="security",
    severity=Severity.NOTE,
    subject=Workload,
    summary="an image whose tag moves",
    why="The same manifest then runs another program next week: other defaults, other options, another CUDA, and a "
    "regression that nobody rolled out. Replicas that started on different days differ, and pods of one gang on "
    "different nodes too, with what each node has cached. There is nothing to roll back to.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  containers:
  - name: main
    image: vllm/vllm-openai:latest
    args: [--model=Qwen/Qwen3-8B]
    resources:
      limits:
        nvidia.com/gpu: 1
""",
    good="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    args: [--model=Qwen/Qwen3-8B]
    resources:
      limits:
        nvidia.com/gpu: 1
""",
    sources=(
        Source(
            "https://kubernetes.io/docs/concepts/containers/images/#image-names", "avoid :latest in production, and why"
        ),
        Source("https://github.com/defilantech/LLMKube/pull/362", "the same manifest on two versions of vLLM"),
        Source("https://github.com/cq27-dev/rag-rat/issues/689", "a regression that came with latest"),
    ),
)
def image_not_pinned(workload: Workload, context: Context) -> Iterator[Problem]:
    for _, container in own_containers(workload):
        tag = moving_tag(container.image)
        if tag is None or container.image.removesuffix(f":{tag}") in _transformed(context):
            continue
        is_written = container.image.endswith(f":{tag}")
        yield problem(
            workload.document,
            (*container.path, "image"),
            f"{container.image} is another program whenever {tag} is pushed anew"
            if is_written
            else f"{container.image} has no tag, which means latest: another program whenever it is pushed anew",
            help="name the version that was tested, or its digest (@sha256:…)",
        )


@rule(
    id="IL811",
    name="remote-model-code-not-pinned",
    family="security",
    severity=Severity.NOTE,
    subject=Workload,
    summary="a hub model's own code, run at whatever revision it has today",
    why="--trust-remote-code runs Python that comes with the model, in the pod, with its tokens and its network. "
    "Without a revision it is what the repository's owner, or whoever took the account, pushed last. A commit makes "
    "it the code that was read.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: nemotron
spec:
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    args: [--model=nvidia/Llama-3_3-Nemotron-Super-49B-v1, --trust-remote-code]
    resources:
      limits:
        nvidia.com/gpu: 2
""",
    good="""\
apiVersion: v1
kind: Pod
metadata:
  name: nemotron
spec:
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    args:
    - --model=nvidia/Llama-3_3-Nemotron-Super-49B-v1
    - --revision=4f1c2ab0d7e3c5a9b8f60718293a4b5c6d7e8f90
    - --trust-remote-code
    resources:
      limits:
        nvidia.com/gpu: 2
""",
    sources=(
        Source("https://huggingface.co/docs/transformers/main/en/models#custom-models", "pin a commit for remote code"),
        Source("https://github.com/advisories/GHSA-8fr4-5q9j-m8gm", "a model whose config ran code of its own in vLLM"),
    ),
)
def remote_model_code_not_pinned(workload: Workload, _context: Context) -> Iterator[Problem]:
    for _, container in own_containers(workload):
        for launch in pods.launches(container):
            option = launch.option("--trust-remote-code")
            if option is None or (option.value or "true").lower() in {"false", "0"} or not _is_loose(launch):
                continue
            yield problem(
                workload.document,
                option.path,
                f"whatever code {launch.model} brings when the pod starts is run: no revision is named",
                help="name the commit with --revision (and --code-revision where the code is in another repository)",
            )


def _is_loose(launch: Launch) -> bool:
    """Whether the model is a hub's, at no revision."""
    if any(launch.option(name) for name in ("--revision", "--code-revision")):
        return False
    name = launch.model
    for scheme in _HUB_URI:
        if name.startswith(scheme):
            return ":" not in name.removeprefix(scheme)
    return bool(_HUB_NAME.fullmatch(name)) and not name.startswith(_LOCAL)
