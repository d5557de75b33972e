"""How long a first start takes, modelled."""

from __future__ import annotations

import pytest

from ironloom.plan.start import cold_start_s
from ironloom.workload.shapes.find import find


def test_the_start_that_the_model_is_made_of_comes_out_of_it() -> None:
    shape = find("meta-llama/Llama-3.1-8B-Instruct")
    assert shape is not None
    found = cold_start_s(shape)
    assert found.value == pytest.approx(294, rel=0.02)
    assert found.low < 294 < found.high


def test_a_larger_model_takes_as_much_longer_as_its_files_are_larger() -> None:
    small, large = (find(f"meta-llama/Llama-3.1-{size}-Instruct") for size in ("8B", "70B"))
    assert small is not None
    assert large is not None
    longer_s = cold_start_s(large).value - cold_start_s(small).value
    assert longer_s == pytest.approx((141.1 - 16.1) * 61 / 16.1, rel=0.02)
