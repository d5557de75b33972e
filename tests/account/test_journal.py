"""A record survives the death of the process; a torn tail is not read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.account.journal import ROOM_AGAIN_S, Journal, Position, read_journal

START = Position(0, 0)


def payloads(folder: Path, after: Position = START) -> list[bytes]:
    return [payload for _, payload in read_journal(folder, after)]


def test_records_are_read_in_the_order_they_were_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(100):
        journal.append(str(number).encode())
    assert payloads(tmp_path) == [str(number).encode() for number in range(100)]


def test_reading_goes_on_behind_a_position(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(b"old")
    behind = journal.position
    journal.append(b"new")
    assert payloads(tmp_path, behind) == [b"new"]


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=60))
def test_any_records_come_back_across_segments(records: list[bytes]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        journal = Journal(Path(name), segment_bytes=512)
        for record in records:
            journal.append(record)
        assert payloads(Path(name)) == records
        journal.close()


def test_segments_before_a_position_are_removed_and_the_rest_stays(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=64)
    for _ in range(10):
        journal.append(bytes(20) + b"x")
    journal.discard_before(journal.position)
    assert len(list(tmp_path.iterdir())) == 1
    assert payloads(tmp_path)


def test_a_second_writer_starts_a_new_segment_and_loses_nothing(tmp_path: Path) -> None:
    Journal(tmp_path).append(b"first")
    Journal(tmp_path).append(b"second")
    assert payloads(tmp_path) == [b"first", b"second"]


def test_records_survive_kill_9(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from ironloom.account.journal import Journal\n"
        "j = Journal(Path(sys.argv[1]))\n"
        "for i in range(1000): j.append(b'%d' % i)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    result = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert result.returncode == -signal.SIGKILL
    assert payloads(tmp_path) == [b"%d" % number for number in range(1000)]


def test_a_tail_whose_length_was_never_stored_is_not_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(b"whole")
    torn = journal.position.offset
    journal._map[torn + 4 : torn + 8] = b"torn"
    assert payloads(tmp_path) == [b"whole"]


def test_a_full_disk_is_an_error_at_the_new_segment_and_the_old_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0
    journal = Journal(tmp_path, segment_bytes=64, monotonic=lambda: now_s)
    journal.append(b"a" * 40)
    num_tries = 0

    def no_room(descriptor: int, offset: int, length: int) -> None:
        nonlocal num_tries
        num_tries += 1
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            journal.append(b"b" * 40)
    assert num_tries == 1, "the disk is not asked again at once"
    assert journal.has_no_room
    journal.append(b"d")  # what still fits into the old segment is kept
    monkeypatch.undo()
    now_s += ROOM_AGAIN_S
    journal.append(b"c" * 40)
    assert not journal.has_no_room
    assert payloads(tmp_path) == [b"a" * 40, b"d", b"c" * 40]
