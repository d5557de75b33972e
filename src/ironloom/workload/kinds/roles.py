"""What a set of pods is for, as its launch lines say."""

from __future__ import annotations

from collections.abc import Iterable

from ironloom.workload.workload import Container, Launch, Role

SERVERS = frozenset(
    {"vllm", "sglang", "trtllm", "triton", "huggingfaceserver", "tgi", "tei", "llamacpp", "ollama", "dynamo"}
)
"""Programs that answer requests to a model."""
TRAINERS = frozenset({"torchrun", "accelerate", "deepspeed"})
"""Launchers that start training; an evaluation that is started by one counts as training too."""


def of_containers(containers: Iterable[Container], default: Role = Role.OTHER) -> Role:
    """The role of a pod; `default` where no launch line says one."""
    launches = [one.launch for one in containers if one.launch is not None and not one.is_init]
    programs = {launch.program for outer in launches for launch in chain(outer)}
    if programs & SERVERS:
        return Role.SERVING
    return Role.TRAINING if programs & TRAINERS else default


def starts_python(containers: Iterable[Container]) -> bool:
    """Whether one of them starts a Python program, by itself or through a launcher."""
    outer = (one.launch for one in containers if one.launch is not None)
    return any(launch.program == "python" for launches in outer for launch in chain(launches))


def chain(launch: Launch | None) -> Iterable[Launch]:
    """A launch and those inside it."""
    while launch is not None:
        yield launch
        launch = launch.inner
