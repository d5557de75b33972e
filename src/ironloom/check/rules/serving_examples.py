"""Manifests of servers for the examples of rules. No rule stands here."""

from __future__ import annotations

VLLM = "vllm/vllm-openai:v0.11.0"


def serving(
    *args: str,
    gpus: int | None = 1,
    image: str = VLLM,
    selector: str = "",
    container: str = "",
    pod: str = "",
    memory: str = "",
    token: bool = True,
) -> str:
    """A Deployment of one server with these arguments. `container` and `pod` are lines for them, from column 0;
    `selector` is `label: value`."""
    lines = ["apiVersion: apps/v1", "kind: Deployment", "metadata:", "  name: llama", "spec:", "  selector:"]
    lines += ["    matchLabels:", "      app: llama", "  template:", "    metadata:", "      labels:"]
    lines += ["        app: llama", "    spec:"]
    if selector:
        lines += ["      nodeSelector:", f"        {selector}"]
    lines += ["      containers:", "      - name: server", f"        image: {image}"]
    if args:
        lines += ["        args:", *(f"        - {one}" for one in args)]
    if token:
        lines += ["        env:", "        - name: HF_TOKEN", "          valueFrom:", "            secretKeyRef:"]
        lines += ["              name: hub", "              key: token"]
    if gpus is not None or memory:
        lines += ["        resources:", "          limits:"]
        lines += [f"            nvidia.com/gpu: {gpus}"] if gpus is not None else []
        lines += [f"            memory: {memory}"] if memory else []
    lines += [f"        {line}" for line in container.splitlines()]
    lines += [f"      {line}" for line in pod.splitlines()]
    return "\n".join(lines) + "\n"
