"""Parking by swap: what is read of /proc, what is chosen, and that memory is the same afterwards."""

from __future__ import annotations

import struct
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serve.engines.swapping import SCENARIOS

from ironloom.serve.engines.programs import memory_areas, openvino_park
from ironloom.serve.engines.programs.memory_areas import Area

PAGE = 4096
MAPS = """\
55d0c0a00000-55d0c0a21000 r--p 00000000 fe:00 1835 /usr/bin/python3.11
55d0c2f10000-55d0c4f31000 rw-p 00000000 00:00 0    [heap]
7f32b9d14000-7f32bb814000 rw-p 00000000 00:00 0
7f32bb814000-7f32bb815000 rw-p 0001f000 fe:00 912  /cache/#912 (deleted)
7f32bc000000-7f32bc021000 ---p 00000000 00:00 0
not a line of maps
7ffd4bdd9000-7ffd4bdfa000 rw-p 00000000 00:00 0    [stack]
"""


def test_maps_are_read_and_other_lines_left_out() -> None:
    found = memory_areas.read_maps(MAPS)
    assert len(found) == 6
    assert found[2] == Area(0x7F32B9D14000, 0x7F32BB814000, "rw-p", 0, "00:00", 0, "")
    assert found[3] == Area(0x7F32BB814000, 0x7F32BB815000, "rw-p", 0x1F000, "fe:00", 912, "/cache/#912 (deleted)")
    assert [area.is_plain for area in found] == [False, False, True, False, False, False]


def test_areas_of_plain_memory_and_of_the_swap_file_side_by_side_are_one_span() -> None:
    found = memory_areas.spans(memory_areas.read_maps(MAPS), ("fe:00", 912))
    assert [[area.start for area in span] for span in found] == [[0x7F32B9D14000, 0x7F32BB814000]]


def test_an_arena_of_a_thread_is_not_taken() -> None:
    arena = Area(64 << 20, 65 << 20, "rw-p", 0, "00:00", 0, "")
    beside = Area(65 << 20, 66 << 20, "rw-p", 0, "00:00", 0, "")
    assert memory_areas.spans([arena, beside], ("fe:00", 912)) == [[beside]]


def test_page_bits_are_read_as_the_kernel_writes_them() -> None:
    present, swapped, file = 1 << 63, 1 << 62, 1 << 61
    pages = np.array([0, present, swapped, present | file, present | 1 << 55], np.uint64)
    assert memory_areas.present(pages).tolist() == [False, True, True, True, True]
    assert memory_areas.own(pages).tolist() == [False, True, True, False, True]


@given(st.lists(st.booleans(), max_size=60), st.integers(0, 4))
def test_runs_cover_what_is_true_and_bridge_only_small_gaps(mask: list[bool], bridge: int) -> None:
    found = memory_areas.runs(np.array(mask, bool), bridge=bridge)
    covered = {index for start, end in found for index in range(start, end)}
    assert {index for index, one in enumerate(mask) if one} <= covered
    assert all(mask[start] and mask[end - 1] for start, end in found)
    assert all(b[0] - a[1] > bridge for a, b in pairwise(found))


def page_with(at: int, skipped: int, size: int) -> bytes:
    page = bytearray(PAGE)
    struct.pack_into("<QQ", page, at, skipped, size)
    return bytes(page)


@pytest.mark.parametrize(
    ("page", "found"),
    [
        pytest.param(page_with(0, 0, 16 * PAGE | 2), (0x10000, 0x20000), id="malloc"),
        pytest.param(page_with(48, 48, 16 * PAGE - 48 | 2), (0x10000, 0x20000), id="aligned to 64 bytes"),
        pytest.param(page_with(4080, PAGE + 4080, 16 * PAGE - 4080 | 2), (0xF000, 0x20000), id="aligned to two pages"),
        pytest.param(page_with(0, 0, 16 * PAGE | 3), None, id="another chunk is before it"),
        pytest.param(page_with(0, 0, 16 * PAGE | 6), None, id="of a thread's arena"),
        pytest.param(page_with(0, 0, 16 * PAGE + 16 | 2), None, id="not whole pages"),
        pytest.param(page_with(48, 32, 16 * PAGE - 48 | 2), None, id="the two words do not agree"),
        pytest.param(page_with(0, 0, 1024 * PAGE | 2), None, id="longer than the area"),
        pytest.param(page_with(0, 0x20 * PAGE, PAGE | 2), None, id="begins before the area"),
        pytest.param(bytes(PAGE), None, id="zeros"),
    ],
)
def test_a_mapped_chunk_is_known_by_its_header(page: bytes, found: tuple[int, int] | None) -> None:
    assert memory_areas.chunk_at(page, 0x10000, 0xF000, 0x40000, PAGE) == found


def test_chunks_of_a_span_are_found_past_pages_that_are_none() -> None:
    pages = [
        bytes(PAGE),
        page_with(0, 0, 4 * PAGE | 2),
        *[b"\xff" * PAGE] * 3,
        page_with(0, 0, 2 * PAGE | 2),
        b"",
        b"x",
    ]
    mask = np.array([True, True, True, True, True, True, False, True])

    def read(address: int, size: int) -> bytes:
        return pages[address // PAGE - 16].ljust(size, b"\xff")

    span = (16 * PAGE, 24 * PAGE)
    assert memory_areas.find_chunks(span, mask, read, PAGE, 1) == [(17 * PAGE, 21 * PAGE), (21 * PAGE, 23 * PAGE)]
    assert memory_areas.find_chunks(span, mask, read, PAGE, 3 * PAGE) == [(17 * PAGE, 21 * PAGE)]


ranges = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=12).map(
    lambda pairs: [
        (start, start + size)
        for start, size in sorted(pairs)
        if not any(other != (start, size) and other[0] <= start < other[0] + other[1] + 9 for other in sorted(pairs))
    ]
)


@given(st.lists(st.integers(1, 9), max_size=12), ranges, st.integers(0, 3))
def test_pieces_are_placed_clear_of_what_is_used_and_of_each_other(
    lengths: list[int], used: list[tuple[int, int]], gap: int
) -> None:
    used = sorted(set(used))
    offsets = memory_areas.place(lengths, used, gap)
    placed = [(at, at + length) for at, length in zip(offsets, lengths, strict=True)]
    for index, (start, end) in enumerate(placed):
        assert start >= 0
        for other in [*used, *placed[:index], *placed[index + 1 :]]:
            assert end + gap <= other[0] or other[1] + gap <= start
    assert max((end for _, end in placed), default=0) <= max((e for _, e in used), default=0) + sum(lengths) + gap * (
        len(lengths) + len(used)
    ) + 9 * len(used)


@given(ranges, st.lists(st.integers(0, 60), max_size=10), st.tuples(st.integers(0, 50), st.integers(1, 9)))
def test_looking_up_ranges_is_as_looking_at_each(
    parts: list[tuple[int, int]], addresses: list[int], probe: tuple[int, int]
) -> None:
    parts = sorted(set(parts))
    part = (probe[0], probe[0] + probe[1])
    assert memory_areas.overlaps(part, parts) == any(a < part[1] and part[0] < b for a, b in parts)
    lived_in = [any(a <= one < b for one in addresses) for a, b in parts]
    assert memory_areas.inhabited(parts, np.array(addresses, np.uint64)) == lived_in
    whole = [one for one in parts if one[0] <= part[0] and part[1] <= one[1]]
    assert memory_areas.extent_of(part, parts) == (whole[0] if whole else None)


@pytest.fixture
def swap_dir(tmp_path: Path) -> Path:
    why_not = openvino_park.supported(tmp_path)
    if why_not is not None:
        pytest.skip(why_not)
    return tmp_path


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_memory_stays_what_it_is(scenario: str, swap_dir: Path) -> None:
    command = [sys.executable, "-m", "tests.serve.engines.swapping", scenario, str(swap_dir)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, f"{SCENARIOS[scenario].__doc__}\n{ended.stderr[-2000:]}"


def test_memory_itself_is_no_place_to_swap_to() -> None:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        pytest.skip("there is no /dev/shm")
    assert "memory itself" in (openvino_park.supported(folder) or "")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("sys.platform", "darwin", "this is darwin"),
        ("platform.machine", lambda: "riscv64", "on riscv64"),
        ("os.confstr", lambda _: "musl", "glibc's malloc"),
        ("sysconfig.get_config_var", lambda _: 1, "global lock"),
    ],
)
def test_it_is_told_why_there_is_no_swapping(
    name: str, value: object, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, attribute = name.split(".")
    if name != "sys.platform" and sys.platform != "linux":
        pytest.skip("the platform is told first")
    monkeypatch.setattr(getattr(openvino_park, module), attribute, value)
    assert said in (openvino_park.supported(tmp_path) or "")


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    why_not = openvino_park.supported(tmp_path / "file" / "swap")
    assert why_not is not None
    assert sys.platform != "linux" or "takes no unnamed file" in why_not


@pytest.mark.engine
@pytest.mark.slow
def test_an_engine_as_its_adapter_starts_it_parks_by_swap_and_answers_the_same(swap_dir: Path) -> None:
    from tests.fakes.smollm2 import NAME, openvino_model
    from tests.serve.engines.contract import Target, ask, call
    from tests.serve.engines.running_engine import running

    from ironloom.serve.engines.openvino import ENGINE
    from ironloom.serve.models.cache import default_cache_dir
    from ironloom.serve.models.pull import locate
    from ironloom.serve.models.source import parse_model

    openvino_model()  # fetched and converted
    model = locate(parse_model(NAME, shorthands=True).uri, cache_dir=default_cache_dir())
    assert model is not None
    log = swap_dir / "log"
    with running(ENGINE, model, default_cache_dir(), name="m", log=log) as url:
        target = Target(base_url=url, model="m", parks=True)

        def answers() -> list[str]:
            texts = []
            for question in ("Name three colours.", "Who wrote Hamlet?", "What is the capital of France?"):
                messages = [{"role": "user", "content": question}]
                body = ask(target, "/v1/chat/completions", messages=messages, temperature=0, max_tokens=40)
                texts.append(body["choices"][0]["message"]["content"])
            return texts

        before = answers()
        for _ in range(6):
            assert call(target, "POST", "/sleep?level=1")[0] == 200
            assert call(target, "GET", "/is_sleeping")[1] == {"is_sleeping": True}
            assert call(target, "GET", "/health")[0] == 200
            assert call(target, "POST", "/wake_up")[0] == 200
            assert answers() == before
    said = log.read_text()
    assert "loaded the lean form" in said
    assert said.count("swapped out in") == 6
    assert said.count("read back in") == 6
    assert "let go of" not in said
