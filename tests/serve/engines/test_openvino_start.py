"""How the adapter has the OpenVINO engine started: the launcher's imports, the lean form, the swap."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("openvino")

from ironloom.serve.engines.base import LaunchOrder, LocalModel, ModelFormat, Task
from ironloom.serve.engines.openvino import ENGINE
from ironloom.serve.engines.programs import openvino_start
from ironloom.workload.serving import Serving

SERVING = Serving(name="m", kind="InferenceService", model_uri="hf://owner/name")


def model(tmp_path: Path, form: ModelFormat = ModelFormat.GGUF, task: Task = Task.GENERATE) -> LocalModel:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    return LocalModel(uri="hf://owner/name", path=path, format=form, architecture="llama", task=task)


def args_of(one: LocalModel, cache_dir: Path) -> tuple[str, ...]:
    return ENGINE.launch(LaunchOrder(model=one, serving=SERVING, port=1, cache_dir=cache_dir)).args


def make_lean(one: LocalModel, cache_dir: Path, *, made: bool) -> Path:
    lean = ENGINE.lean_folder(one, cache_dir)
    assert lean is not None
    lean.mkdir(parents=True)
    (lean / openvino_start.OUTCOME).write_text(json.dumps({"made": made}))
    return lean


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_what_the_launcher_imports_starts_no_thread_and_no_telemetry() -> None:
    (module,) = ENGINE.launch(
        LaunchOrder(
            model=LocalModel(uri="x", path=Path("x"), format=ModelFormat.OPENVINO, architecture="llama"),
            serving=SERVING,
            port=1,
        )
    ).preload
    code = f"import {module}, os, sys; print(len(os.listdir('/proc/self/task')), sys.modules['openvino_telemetry'])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["1", "None"]


def test_the_daemon_asks_for_a_lean_form_without_importing_openvino() -> None:
    code = (
        "import sys; from ironloom.serve.engines.openvino import ENGINE;"
        "from ironloom.serve.engines.programs import openvino_start; openvino_start.folder_name();"
        "openvino_start.load_arguments(); print(sorted({'openvino', 'numpy', 'openvino_genai'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"


def test_a_gguf_is_converted_until_its_lean_form_was_tried(tmp_path: Path) -> None:
    one = model(tmp_path)
    asked = ENGINE.conversion(one, tmp_path)
    assert asked is not None
    assert asked.result == ENGINE.lean_folder(one, tmp_path)
    ENGINE.folder(one, tmp_path).mkdir(parents=True)
    assert ENGINE.conversion(one, tmp_path) == asked
    make_lean(one, tmp_path, made=False)
    assert ENGINE.conversion(one, tmp_path) is None


def test_another_version_of_openvino_makes_another_lean_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = model(tmp_path)
    ENGINE.folder(one, tmp_path).mkdir(parents=True)
    make_lean(one, tmp_path, made=True)
    assert ENGINE.conversion(one, tmp_path) is None
    monkeypatch.setattr(openvino_start.importlib.metadata, "version", lambda _: "2099.1.0")
    assert ENGINE.conversion(one, tmp_path) is not None
    assert "--lean" not in args_of(one, tmp_path)


def test_a_start_uses_the_lean_form_only_where_it_was_made_and_swaps_into_the_cache(tmp_path: Path) -> None:
    one = model(tmp_path)
    assert "--lean" not in args_of(one, tmp_path)
    lean = make_lean(one, tmp_path, made=False)
    assert "--lean" not in args_of(one, tmp_path)
    (lean / openvino_start.OUTCOME).write_text('{"made": true}')
    args = args_of(one, tmp_path)
    assert args[args.index("--lean") + 1] == str(lean)
    assert args[args.index("--swap-dir") + 1] == str(tmp_path / "swap")


@pytest.mark.parametrize(
    ("form", "task"), [(ModelFormat.OPENVINO, Task.GENERATE), (ModelFormat.SAFETENSORS, Task.EMBED)]
)
def test_other_models_have_no_lean_form(form: ModelFormat, task: Task, tmp_path: Path) -> None:
    one = model(tmp_path, form, task)
    assert ENGINE.lean_folder(one, tmp_path) is None
    assert "--lean" not in args_of(one, tmp_path)
    assert ("--swap-dir" in args_of(one, tmp_path)) == (task is Task.GENERATE)
