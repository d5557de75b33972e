"""The page in a real Chromium: what a person sees and does, and that nothing leaves this address."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_daemon import Answer, running, service_view

from ironloom.server.control import EventView, ModelView, ReplicaView, RunView

pytestmark = pytest.mark.browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page and what it did wrong."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def watched(browser: Any) -> Iterator[Watched]:
    page = browser.new_page()
    seen = Watched(page)
    page.on("console", lambda message: message.type in ("error", "warning") and seen.complaints.append(message.text))
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.on("request", lambda request: seen.asked.append(request.url))
    yield seen
    page.close()


def busy() -> list[Any]:
    return [
        service_view("small"),
        service_view("embedder", state="zero", replicas=[], in_flight=0, tokens_per_s=0.0),
        service_view(
            "<b>odd</b>", state="failed", reason="the engine ended: <script>alert(1)</script>", model=ModelView(uri="x")
        ),
    ]


def events() -> list[EventView]:
    return [
        EventView(
            seq=seq,
            wall_time_s=1_700_000_000.0 + seq,
            kind="replica.ready",
            service="small",
            replica="small-abcde",
            reason="Ready",
            message="small-abcde is ready after 1.2s",
        )
        for seq in range(1, 4)
    ]


def test_services_events_and_totals_are_shown_and_the_chat_streams(watched: Watched, tmp_path: Path) -> None:
    with running(tmp_path, services=busy()) as daemon:
        daemon.control.event_list = events()
        daemon.gateway.piece_pause_s = 0.05
        page = watched.page
        page.goto(daemon.url)
        page.wait_for_selector("#services > li >> nth=2")
        names = page.locator("#services h3").all_inner_texts()
        assert names == ["<b>odd</b>", "embedder", "small"]
        assert page.locator("#services .name .state").all_inner_texts() == ["failed", "zero", "ready"]
        assert page.inner_text("#total-tokens") == "123"
        assert page.inner_text("#connection") == "live"
        page.wait_for_selector("#events > li >> nth=2")
        assert "small-abcde is ready" in page.inner_text("#events > li >> nth=0")
        assert not page.is_visible("#empty")
        assert not page.is_visible("#key-section")

        page.select_option("#service", "small")
        page.fill("#prompt", "Hi")
        page.press("#prompt", "Enter")
        page.wait_for_selector(".message.assistant .figures")
        assert page.inner_text(".message.assistant .content") == "Hello from small"
        figures = page.inner_text(".message.assistant .figures")
        assert "first token" in figures
        assert "3 tokens" in figures
        sent = daemon.gateway.calls[-1][2]
        assert sent["messages"] == [{"role": "user", "content": "Hi"}]
        assert sent["max_tokens"] == 512
        page.fill("#prompt", "Again")
        page.click("#send")
        page.wait_for_selector(".message.assistant .figures >> nth=1")
        assert [one["role"] for one in daemon.gateway.calls[-1][2]["messages"]] == ["user", "assistant", "user"]

        assert watched.complaints == []
        assert {url.split("/")[2] for url in watched.asked} == {f"127.0.0.1:{daemon.port}"}


def test_a_run_is_drawn_with_where_its_step_s_time_goes_and_what_stalls_cost(watched: Watched, tmp_path: Path) -> None:
    last = {"loss": 2.5, "tokens_per_s": 1234.0, "remaining_s": 60.0, "step_s": 2.0, "num_stalls": 2, "stall_s": 9.0,
            "parts_s": {"data": 0.001, "forward": 0.6, "backward": 1.2, "communication": 0.199}}  # fmt: skip
    told = RunView(
        name="tuned", namespace="default", kind="TrainJob", state="running", model="hf://owner/name", output="/out",
        step=20, num_steps=100, last=last, loss_curve=[[1, 3.0], [20, 2.5]],
    )  # fmt: skip
    with running(tmp_path) as daemon:
        daemon.control.run_by_name = {"tuned": told, "waits": msgspec.structs.replace(told, name="waits", last={})}
        page = watched.page
        page.goto(daemon.url)
        page.wait_for_selector("#runs > li >> nth=1")
        parts = page.locator("#runs .step-parts")
        assert parts.nth(0).inner_text() == (
            "step 2.0 s · forward 30 % · backward 60 % · communication 10 % · 2 stalls, 9s lost"
        )
        assert not parts.nth(1).is_visible()
        assert page.locator("#runs dd").all_inner_texts()[:4] == ["20 of 100", "2.5000", "1,234", "60s"]
        assert watched.complaints == []


LONG = "the engine ended with status 1; its last lines:\n" + "\n".join(
    ["Traceback (most recent call last):", *("  " + "deep " * 60 for _ in range(18)), "\x1b[31mValueError: no\x1b[0m"]
)


@pytest.mark.parametrize("width", [1280, 400])
def test_a_reason_of_many_long_lines_is_one_line_that_unfolds_and_breaks_nothing(
    width: int, watched: Watched, tmp_path: Path
) -> None:
    broken = ReplicaView(
        id="bad-abcde", pid=None, state="failed", reason=LONG, devices=[], engine="openvino", in_flight=0
    )
    failed = service_view("bad", state="failed", reason=LONG, replicas=[broken])
    event = msgspec.structs.replace(
        events()[0], kind="service.failed", service="bad", reason="StartFailed", message=LONG
    )
    with running(tmp_path, services=[failed, service_view("small")]) as daemon:
        daemon.control.event_list = [event]
        page = watched.page
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(daemon.url)
        page.wait_for_selector("#events > li")
        page.wait_for_selector("#services > li >> nth=1")
        row = page.locator("#services > li >> nth=0")
        assert row.locator(".sub").inner_text().endswith("the engine ended with status 1: ValueError: no")
        assert row.bounding_box()["height"] < 250, "folded, it takes no more than its neighbours"
        row.locator("> .whole > summary").click()
        page.wait_for_timeout(1500)  # the next snapshot leaves it open
        whole = row.locator("> .whole > pre")
        assert whole.is_visible()
        assert whole.inner_text().splitlines()[-1] == "ValueError: no"
        assert page.locator("#events .whole > pre").text_content() == whole.text_content()
        page.locator("#services > li >> nth=0").locator(".of-replicas > summary").click()
        row.locator(".replicas .whole > summary").click()
        page.locator("#events .whole > summary").click()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing sticks out"
        assert not page.locator("#services > li >> nth=1").locator("> .whole").is_visible()
        assert watched.complaints == []


def test_an_answer_can_be_stopped_and_a_failure_is_told(watched: Watched, tmp_path: Path) -> None:
    with running(tmp_path, services=busy()) as daemon:
        page = watched.page
        page.goto(daemon.url)
        page.wait_for_selector("#service option >> nth=2", state="attached")
        page.select_option("#service", "small")
        daemon.gateway.piece_pause_s = 0.3
        page.fill("#prompt", "Hi")
        page.click("#send")
        page.wait_for_selector(".message.assistant .content:has-text('Hello')")
        page.click("#stop")
        page.wait_for_selector("#chat-status:text-is('stopped')")
        assert page.is_enabled("#send")
        daemon.gateway.piece_pause_s = 0.0
        error = b'{"error": {"message": "no replica of small can be had", "code": "unavailable"}}'
        daemon.gateway.script = lambda path, fields: Answer(503, [error])
        page.fill("#prompt", "Hi")
        page.click("#send")
        page.wait_for_selector(".message.error")
        assert "no replica of small can be had" in page.inner_text(".message.error")


def test_the_empty_page_says_what_to_type(watched: Watched, tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        watched.page.goto(daemon.url)
        watched.page.wait_for_selector("#empty", state="visible")
        assert "ironloom serve smollm2-135m-instruct" in watched.page.inner_text("#empty")
        assert watched.page.is_disabled("#send")
        assert watched.complaints == []


def test_a_key_is_asked_for_and_kept_in_the_tab_only(watched: Watched, browser: Any, tmp_path: Path) -> None:
    with running(tmp_path, services=busy(), keys_required=True) as daemon:
        _, control = daemon.run(daemon.ring.create("c", "control"))
        _, inference = daemon.run(daemon.ring.create("i", "inference"))
        page = watched.page
        page.goto(daemon.url)
        page.wait_for_selector("#key-section", state="visible")
        assert "A key is needed" in page.inner_text("#key-section")
        page.fill("#key", inference)
        page.press("#key", "Enter")
        page.wait_for_selector("#connection:text-is('chat only')")
        assert page.locator("#service option").count() == 3
        page.fill("#key", control)
        page.press("#key", "Enter")
        page.wait_for_selector("#services > li")
        assert not page.is_visible("#key-section")
        page.reload()
        page.wait_for_selector("#services > li")
        assert page.evaluate("localStorage.length") == 0
        assert all(control not in url for url in watched.asked)


def test_the_page_finds_the_daemon_again(watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    with running(tmp_path, services=busy()) as daemon:
        port = daemon.port
        page.goto(daemon.url)
        page.wait_for_selector("#services > li")
    page.wait_for_selector("#connection.lost")
    with running(tmp_path, services=[service_view("back")], port=port):
        page.wait_for_selector("#services h3:text-is('back')", timeout=20_000)
        assert page.inner_text("#connection") == "live"


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_wider_than_the_window(watched: Watched, tmp_path: Path, width: int) -> None:
    long = service_view("a" * 63, reason="no/space/" * 30)
    with running(tmp_path, services=[*busy(), long]) as daemon:
        daemon.control.event_list = events()
        watched.page.set_viewport_size({"width": width, "height": 800})
        watched.page.goto(daemon.url)
        watched.page.wait_for_selector("#services > li >> nth=3")
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= width


def test_every_control_has_a_name_and_can_be_reached_by_keyboard(watched: Watched, tmp_path: Path) -> None:
    with running(tmp_path, services=busy()) as daemon:
        page = watched.page
        page.goto(daemon.url)
        page.wait_for_selector("#services > li")
        nameless = page.evaluate(
            """[...document.querySelectorAll('input, select, textarea, button')].filter((control) =>
                 !control.labels?.length && !control.textContent.trim()).map((control) => control.id)"""
        )
        assert nameless == []
        reached = set()
        for _ in range(20):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        assert {"service", "prompt", "send", "messages"} <= reached


def test_a_web_page_of_another_origin_gets_nothing(watched: Watched, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with running(tmp_path, services=busy()) as daemon, running(tmp_path / "other") as other:
        page = watched.page
        page.goto(other.url.replace("127.0.0.1", "localhost"))
        attack = """async (target) => {
            const tries = [
              fetch(target + '/api/v1/services'),
              fetch(target + '/api/v1/shutdown', {method: 'POST', body: '{}', mode: 'no-cors'}),
              fetch(target + '/api/v1/services/small', {method: 'DELETE'}),
              fetch(target + '/v1/chat/completions', {method: 'POST', body: '{"model":"small"}', mode: 'no-cors'}),
            ];
            return (await Promise.allSettled(tries)).map((one) => one.status + ' ' + (one.value?.status ?? ''));
        }"""
        page.context.new_cdp_session(page).send("Page.setBypassCSP", {"enabled": True})
        page.reload()
        results = page.evaluate(attack, daemon.url)
        assert not any(result.startswith("fulfilled 200") for result in results)
        assert daemon.control.asked == []
        assert daemon.gateway.calls == []
        assert "small" in daemon.control.by_name
