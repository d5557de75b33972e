"""`ironloom --help` is cheap: little CPU time over the bare interpreter, and no heavy module."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

HEAVY = (
    "anyio", "asyncio", "fsspec", "huggingface_hub", "http.client", "httptools", "importlib.metadata", "jinja2",
    "kubernetes", "msgspec", "numpy", "openai", "openvino", "openvino_genai", "sqlite3", "ssl", "starlette", "torch",
    "tqdm", "transformers", "uvloop", "xllamacpp", "yaml",
)  # fmt: skip
MAX_EXTRA_CPU_S = 0.2
ROUNDS = 5


def _cpu_s(*args: str) -> float:
    """CPU time, user and system, of one child process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *args], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


def test_help_takes_under_a_fifth_of_a_second_of_cpu_over_the_bare_interpreter() -> None:
    rounds = [(_cpu_s("-c", "pass"), _cpu_s("-m", "ironloom.cli", "--help")) for _ in range(ROUNDS)]
    bare_s, help_s = (min(column) for column in zip(*rounds, strict=True))
    assert help_s - bare_s < MAX_EXTRA_CPU_S


def test_help_imports_no_heavy_module() -> None:
    program = (
        "import json, sys\nfrom ironloom.cli.main import main\nassert main(['--help']) == 0\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    loaded = set(json.loads(done.stderr))
    assert not loaded & set(HEAVY)
    assert not [name for name in loaded if name.startswith("ironloom.") and not _may_load(name)]


def _may_load(name: str) -> bool:
    return name in ("ironloom.errors", "ironloom.cli", "ironloom.cli.main", "ironloom.cli.group")
