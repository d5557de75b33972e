"""Where a model's lean form stands, and whether there is one. Light: the daemon asks too, and imports no OpenVINO."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

FOLDER_PREFIX = "lean-"
OUTCOME = "lean.json"
"""In a lean form's folder: what came of making it. It may be all that is there."""


def hide_telemetry() -> None:
    """Have no OpenVINO telemetry in this process, as if its package were absent. Call before openvino is imported.

    It would also start a thread at import, which a fork would lose.
    """
    if "openvino_telemetry" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # its import now fails


def openvino_version() -> str:
    """Of openvino and openvino-genai, for a folder's name. Raises PackageNotFoundError."""
    versions = (importlib.metadata.version(name) for name in ("openvino", "openvino-genai"))
    return "-".join(re.sub(r"[^0-9A-Za-z.]", "_", version) for version in versions)


def folder_name() -> str:
    """Name of a lean form's folder: another version of OpenVINO makes another one."""
    return FOLDER_PREFIX + openvino_version()


def is_lean(folder: Path) -> bool:
    """Whether a lean form was made there, and not only tried."""
    try:
        return bool(json.loads((folder / OUTCOME).read_text())["made"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def load_arguments() -> dict[str, Any]:
    """What ContinuousBatchingPipeline takes beside a lean form's folder. Raises RuntimeError.

    Loading the CPU plugin as an extension is what makes read_model know its internal operations.
    """
    spec = importlib.util.find_spec("openvino")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        for path in sorted((Path(folder) / "libs").glob("libopenvino_intel_cpu_plugin.*")):
            return {"extensions": [str(path)]}
    raise RuntimeError("openvino's CPU plugin was not found beside its package")
