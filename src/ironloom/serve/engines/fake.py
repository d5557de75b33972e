"""The fake engine: a real process that speaks an engine's contract and computes nothing.

For tests and chaos runs: it starts in a tenth of a second, answers deterministic words, and misbehaves on request.
Its knobs are in `Knobs`; they come from a `fake.json` (the model, a file or in the model's folder), from engine
arguments (`--token-delay-s 0.01`) and from the environment (`FAKE_TOKEN_DELAY_S=0.01`), the later over the earlier.
"""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path

from ironloom.errors import ModelNotFound, UsageError
from ironloom.fleet.node import Node
from ironloom.serve.engines.base import Conversion, Launch, LaunchOrder, LocalModel, ModelFormat
from ironloom.serve.engines.fake_knobs import Knobs, from_arguments, from_environment, from_mapping
from ironloom.units import MIB
from ironloom.workload.serving import Serving

MODULE = "ironloom.serve.engines.programs.fake_server"


class FakeEngine:
    """Starts `programs/fake_server.py`. Picked only when it is asked for by name."""

    name = "fake"
    parks = True

    def missing(self) -> str | None:
        return None

    def refuses(self, model: LocalModel, serving: Serving, node: Node) -> str | None:
        del model, node
        return None if serving.runtime == self.name else "the fake engine is for tests; ask for it by name"

    def conversion(self, model: LocalModel, cache_dir: Path) -> Conversion | None:
        del model, cache_dir
        return None

    def own_model(self, serving: Serving) -> LocalModel | None:
        """The model without any preparing: a folder or a file with knobs, or just a name.

        Raises ModelNotFound when a path is named that is not there.
        """
        uri = serving.model_uri
        path = Path(uri.removeprefix("file://"))
        if (uri.startswith("file://") or path.is_absolute()) and not path.exists():
            raise ModelNotFound(f"There is no {path}.", hint="give a folder or a fake.json")
        return LocalModel(uri=uri, path=path, format=ModelFormat.SAFETENSORS, architecture="FakeForCausalLM")

    def launch(self, order: LaunchOrder) -> Launch:
        knobs = knobs_of(order)
        args = ("--name", order.serving.name, "--port", str(order.port), "--knobs", _as_json(knobs))
        return Launch(
            argv=(sys.executable, "-m", MODULE, *args),
            env=dict(order.serving.env),
            module=MODULE,
            args=args,
            preload=("ironloom.serve.engines.programs.fake_parts",) if knobs.preload else (),
            max_concurrency=knobs.max_concurrency,
            memory_bytes=knobs.memory_mib * MIB,
        )


def knobs_of(order: LaunchOrder) -> Knobs:
    """All sources together. Raises UsageError for a knob that there is not, or a value that it cannot have."""
    path = order.model.path
    file = path if path.suffix == ".json" else path / "fake.json"
    knobs = Knobs()
    if file.is_file():
        try:
            knobs = from_mapping(knobs, json.loads(file.read_text()), str(file))
        except ValueError as error:
            raise UsageError(f"{file} is no JSON object of knobs: {error}") from error
    knobs = from_arguments(knobs, order.serving.engine_args)
    return from_environment(knobs, order.serving.env)


def _as_json(knobs: Knobs) -> str:
    default = Knobs()
    changed = {
        f.name: getattr(knobs, f.name) for f in fields(Knobs) if getattr(knobs, f.name) != getattr(default, f.name)
    }
    return json.dumps(changed)


ENGINE = FakeEngine()
