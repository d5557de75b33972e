"""The NVIDIA GPUs of this machine: through NVML where nvidia-ml-py is installed, else through nvidia-smi, else none."""

from __future__ import annotations

import contextlib
import shutil
import subprocess

from ironloom.fleet.node import Gpu
from ironloom.units import MIB

SMI_FIELDS = ("index", "uuid", "name", "memory.total", "memory.free")
SMI_TIMEOUT_S = 20.0
"""nvidia-smi takes seconds when it is the first to wake the driver, and hangs for ever when a GPU has fallen off."""


def gpus() -> tuple[Gpu, ...]:
    """The GPUs in the driver's order. May take seconds. Never raises: where no driver answers there are none."""
    found = _from_nvml()
    return found if found is not None else _from_smi()


def parse_smi(text: str) -> tuple[Gpu, ...]:
    """What `nvidia-smi --query-gpu=… --format=csv,noheader,nounits` printed; lines that are none are passed over.

    Memory is in MiB there. A GPU whose memory is "[N/A]" (unified memory) has 0 bytes: not known.
    """
    parsed = []
    for line in text.splitlines():
        words = [word.strip() for word in line.split(",")]
        if len(words) != len(SMI_FIELDS) or not words[0].isdigit():
            continue
        total, free = (int(word) * MIB if word.isdigit() else 0 for word in words[3:])
        parsed.append(
            Gpu(index=int(words[0]), uuid=words[1], name=words[2], memory_bytes=total, free_memory_bytes=free)
        )
    return tuple(parsed)


def _from_smi() -> tuple[Gpu, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    command = (program, f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader,nounits")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SMI_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ()
    return parse_smi(done.stdout)


def _from_nvml() -> tuple[Gpu, ...] | None:
    """None when NVML is not there to ask."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # not installed, no driver, a driver of another version: each has its own class
        return None
    try:
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            found.append(
                Gpu(
                    index=index,
                    uuid=_str(pynvml.nvmlDeviceGetUUID(handle)),
                    name=_str(pynvml.nvmlDeviceGetName(handle)),
                    memory_bytes=int(memory.total),
                    free_memory_bytes=int(memory.free),
                )
            )
        return tuple(found)
    except Exception:
        return None
    finally:
        with contextlib.suppress(Exception):
            pynvml.nvmlShutdown()


def _str(text: str | bytes) -> str:
    return text.decode(errors="replace") if isinstance(text, bytes) else text
