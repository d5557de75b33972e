"""Imports what openvino_server needs, and nothing that starts a thread: a launcher imports this, then forks.

numpy's OpenBLAS would start its threads at import, and openvino's telemetry package a thread of its own.
"""

from __future__ import annotations

import os
from importlib import import_module

from ironloom.serve.engines.programs.openvino_start import hide_telemetry

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
hide_telemetry()

for _name in (
    "asyncio",
    "jinja2.meta",
    "jinja2.sandbox",
    "numpy",
    "openvino",
    "openvino_genai",
    "uvloop",
    "ironloom.serve.engines.programs.openai_server",
    "ironloom.serve.engines.programs.openvino_generator",
    "ironloom.serve.engines.programs.openvino_server",
    "ironloom.serve.http.server",
):
    try:
        import_module(_name)
    except ImportError:
        if _name != "uvloop":
            raise
