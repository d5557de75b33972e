"""CPU time that others got, from /proc/stat."""

from __future__ import annotations

from pathlib import Path

from ironloom.train.loop.steal import Steal


def test_the_share_is_of_the_time_since_the_last_look(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1 2\n")
    steal = Steal(stat)
    stat.write_text("cpu  150 0 100 830 0 0 0 20 0 0\n")
    assert steal.fraction() == 0.2
    assert steal.fraction() is None, "no time has passed"


def test_where_the_system_does_not_tell_it_is_not_known(tmp_path: Path) -> None:
    assert Steal(tmp_path / "none").fraction() is None
    (tmp_path / "stat").write_text("cpu  1 2 x\n")
    assert Steal(tmp_path / "stat").fraction() is None
