"""Services that run on the fake engine, and its preparing, for tests of whatever starts engines."""

from __future__ import annotations

from typing import Any

from ironloom.backends.local.prepare import Prepared, Say
from ironloom.serve.engines.fake import ENGINE, FakeEngine
from ironloom.workload.serving import Resources, Scaling, Serving


def fake_serving(
    name: str = "a",
    *,
    resources: Resources | None = None,
    scaling: Scaling | None = None,
    start_deadline_s: float = 20.0,
    preload: bool = False,
    **knobs: Any,
) -> Serving:
    """A service on the fake engine; `knobs` are those of serve/engines/fake_knobs.py.

    It is spawned unless `preload` is given: a launcher of its own costs a test more than it saves.
    """
    args = []
    for knob, value in {**knobs, "preload": preload}.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        args.append(f"--{knob.replace('_', '-')}={text}")
    return Serving(
        name=name,
        kind="InferenceService",
        runtime="fake",
        model_uri="fake",
        engine_args=tuple(args),
        resources=resources or Resources(),
        scaling=scaling or Scaling(),
        start_deadline_s=start_deadline_s,
    )


class FakePreparer:
    """The Preparer that needs no model."""

    engine: FakeEngine = ENGINE

    async def __call__(self, serving: Serving, say: Say) -> Prepared:
        del say
        return Prepared(model=self.engine.own_model(serving), engine=self.engine)

    async def check(self, serving: Serving) -> None:
        del serving

    async def is_quick(self, serving: Serving) -> bool:
        del serving
        return True
