"""hf:// models against a stand-in of the hub: what is fetched, checked, resumed, refused."""

from __future__ import annotations

import errno
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.hub import FakeHub, fake_hub
from tests.fakes.weights import config, gguf_file, safetensors_file

from ironloom.errors import DiskFull, ModelCorrupt, ModelError, ModelNotFound, ModelRefused
from ironloom.serve.models import cache, hub, hub_file
from ironloom.serve.models.cache import list_models, remove
from ironloom.serve.models.hub_errors import translated
from ironloom.serve.models.prepare_lines import decode_line
from ironloom.serve.models.progress import Progress
from ironloom.serve.models.pull import locate, pull
from ironloom.serve.models.source import parse_model

WEIGHTS = safetensors_file({"a": (64, 64)})
REPO = "acme/tiny"
FILES = {
    "config.json": config(),
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b"{}",
    "merges.txt": b"a b\n",
    "README.md": b"hello",
    "pytorch_model.bin": b"a pickle" * 300,
    "modeling_tiny.py": b"raise SystemExit",
    "original/consolidated.00.pth": b"x",
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with one model; HF_HOME is empty, waits are short."""
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "HF_XET_HIGH_PERFORMANCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hub_file, "RETRY_WAIT_S", 0.0)
    monkeypatch.setattr(hub, "REPORT_EVERY_S", 0.01)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with fake_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        running.put(REPO, FILES)
        yield running


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def blobs(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "hf/hub").rglob("blobs/*"))


def test_a_pull_fetches_the_allowed_files_only(server: FakeHub, cache_dir: Path) -> None:
    seen: list[Progress] = []
    model = pull(f"hf://{REPO}", cache_dir=cache_dir, progress=seen.append)
    assert sorted(path.name for path in model.path.iterdir()) == [
        "config.json",
        "merges.txt",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert (model.path / "model.safetensors").read_bytes() == WEIGHTS
    assert (model.architecture, model.uri) == ("LlamaForCausalLM", f"hf://{REPO}")
    pulling = [step for step in seen if step.total_bytes]
    assert (
        pulling[-1].done_bytes
        == pulling[-1].total_bytes
        == sum(len(FILES[name]) for name in ("config.json", "merges.txt", "model.safetensors", "tokenizer.json"))
    )


def test_a_second_pull_and_locate_ask_no_network(server: FakeHub, cache_dir: Path) -> None:
    assert locate(f"hf://{REPO}", cache_dir=cache_dir) is None
    first = pull(f"hf://{REPO}", cache_dir=cache_dir)
    server.requests.clear()
    assert pull(f"hf://{REPO}", cache_dir=cache_dir) == first
    assert locate(f"hf://{REPO}", cache_dir=cache_dir) == first
    assert server.requests == []


def test_refresh_takes_the_newest_commit_and_a_plain_pull_does_not(server: FakeHub, cache_dir: Path) -> None:
    old = pull(f"hf://{REPO}", cache_dir=cache_dir)
    newest = server.put(REPO, {**FILES, "model.safetensors": safetensors_file({"b": (80, 80)})})
    assert pull(f"hf://{REPO}", cache_dir=cache_dir).path == old.path
    assert pull(f"hf://{REPO}", cache_dir=cache_dir, refresh=True).path.name == newest


def test_what_another_program_finds_in_the_hubs_cache(server: FakeHub, cache_dir: Path, tmp_path: Path) -> None:
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    model = pull(f"hf://{REPO}", cache_dir=cache_dir)
    hub_cache = tmp_path / "hf/hub"
    assert try_to_load_from_cache(REPO, "config.json", cache_dir=hub_cache) == str(model.path / "config.json")
    assert snapshot_download(REPO, cache_dir=hub_cache, local_files_only=True) == str(model.path)


def test_a_revision_is_a_branch_a_tag_or_a_commit(server: FakeHub, cache_dir: Path) -> None:
    commit = server.put(REPO, FILES, revisions=("main", "v2"))
    assert pull(f"hf://{REPO}:v2", cache_dir=cache_dir).path.name == commit
    assert pull(f"hf://{REPO}:{commit}", cache_dir=cache_dir).path.name == commit
    with pytest.raises(ModelNotFound, match='no revision "v3"'):
        pull(f"hf://{REPO}:v3", cache_dir=cache_dir)


def test_a_cut_connection_is_resumed_by_range(server: FakeHub, cache_dir: Path) -> None:
    server.cuts["model.safetensors"] = [5000, 4000]
    model = pull(f"hf://{REPO}", cache_dir=cache_dir)
    assert (model.path / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [span for method, path, span in server.requests if method == "GET" and "/model.safetensors" in path]
    assert {span for span in ranges if span} == {"bytes=5000-", "bytes=9000-"}


def test_a_pull_that_failed_goes_on_where_it_stopped(server: FakeHub, cache_dir: Path, tmp_path: Path) -> None:
    server.cuts["model.safetensors"] = [6000, *[0] * 20]
    with pytest.raises(ModelError, match="could not be fetched"):
        pull(f"hf://{REPO}", cache_dir=cache_dir)
    assert locate(f"hf://{REPO}", cache_dir=cache_dir) is None
    server.cuts.clear()
    server.requests.clear()
    model = pull(f"hf://{REPO}", cache_dir=cache_dir)
    assert (model.path / "model.safetensors").read_bytes() == WEIGHTS
    assert "bytes=6000-" in {span for _, _, span in server.requests}
    assert not [name for name in blobs(tmp_path) if "incomplete" in name]


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_wrong_bytes_are_fetched_again_and_refused_when_wrong_twice(
    server: FakeHub, cache_dir: Path, tmp_path: Path, name: str
) -> None:
    server.wrong[name] = 1
    model = pull(f"hf://{REPO}", cache_dir=cache_dir)
    assert (model.path / name).read_bytes() == FILES[name]
    remove(cache_dir, model.uri)
    server.wrong[name] = 2
    with pytest.raises(ModelCorrupt, match=name):
        pull(f"hf://{REPO}", cache_dir=cache_dir)
    assert locate(f"hf://{REPO}", cache_dir=cache_dir) is None
    assert pull(f"hf://{REPO}", cache_dir=cache_dir).path.is_dir()


def test_a_blob_that_was_cut_short_on_disk_is_fetched_again(server: FakeHub, cache_dir: Path) -> None:
    model = pull(f"hf://{REPO}", cache_dir=cache_dir)
    blob = (model.path / "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:100])
    assert locate(model.uri, cache_dir=cache_dir) is None
    assert (pull(model.uri, cache_dir=cache_dir).path / "model.safetensors").read_bytes() == WEIGHTS


def test_the_token_goes_to_the_hub_and_not_to_the_file_store(
    server: FakeHub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.token = "hf_secret"
    with pytest.raises(ModelNotFound, match="or it is private"):
        pull(f"hf://{REPO}", cache_dir=cache_dir)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert pull(f"hf://{REPO}", cache_dir=cache_dir).path.is_dir()
    assert server.num("GET", "/model.safetensors") > 0
    assert server.tokens_at_store == []


def test_a_gated_and_a_missing_model_say_so(server: FakeHub, cache_dir: Path) -> None:
    server.gated.add(REPO)
    with pytest.raises(ModelRefused, match="gated") as caught:
        pull(f"hf://{REPO}", cache_dir=cache_dir)
    assert "HF_TOKEN" in (caught.value.hint or "")
    with pytest.raises(ModelNotFound, match="acme/other"):
        pull("hf://acme/other", cache_dir=cache_dir)


def test_a_busy_hub_is_asked_again_after_the_time_it_says(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    server.listing_statuses = [429, 503]
    source, settings = parse_model(f"hf://{REPO}"), hub.hub_settings()
    hub.fetch(source, settings, lambda _: None, sleep=waits.append)
    assert waits == [3.0, 2.0]
    server.listing_statuses = [429] * hub.MAX_ASKS
    with pytest.raises(ModelError, match="status 429"):
        hub.fetch(source, settings, lambda _: None, sleep=waits.append)


def test_a_hub_that_is_not_there(cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"could not be fetched from http://127\.0\.0\.1:9"):
        pull(f"hf://{REPO}", cache_dir=cache_dir)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            socket.gaierror(-2, "Name or service not known"),
            "its name has no address, or there is no network (name or service not known)",
        ),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "connection refused"),
        (OSError("it broke\nand more"), "it broke"),
    ],
)
def test_a_hub_that_cannot_be_reached_is_told_without_numbers(error: OSError, said: str) -> None:
    def call() -> None:
        raise error

    with pytest.raises(ModelError) as told:
        translated(call, parse_model(f"hf://{REPO}"), "https://hub.example")
    assert told.value.message == f"{REPO} could not be fetched from https://hub.example: {said}"


def test_offline_takes_what_is_there_and_asks_nobody(
    server: FakeHub, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = pull(f"hf://{REPO}", cache_dir=cache_dir)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    server.requests.clear()
    elsewhere = tmp_path / "another cache of ours"
    assert pull(f"hf://{REPO}", cache_dir=elsewhere).path == fetched.path
    with pytest.raises(ModelNotFound, match="HF_HUB_OFFLINE"):
        pull("hf://acme/other", cache_dir=elsewhere)
    assert server.requests == []


def test_pickles_alone_are_refused_before_anything_is_fetched(server: FakeHub, cache_dir: Path, tmp_path: Path) -> None:
    server.put("acme/old", {"config.json": config(), "pytorch_model.bin": b"pickle" * 400})
    with pytest.raises(ModelRefused, match=r"pickles alone \(pytorch_model\.bin\)"):
        pull("hf://acme/old", cache_dir=cache_dir)
    assert server.num("GET", "pytorch_model.bin") == 0
    assert blobs(tmp_path) == []


def test_a_repository_of_gguf_files_wants_one_named(server: FakeHub, cache_dir: Path) -> None:
    server.put("acme/gguf", {"tiny-Q4.gguf": gguf_file(), "tiny-Q8.gguf": gguf_file(), "README.md": b""})
    with pytest.raises(ModelRefused, match=r"tiny-Q4\.gguf, tiny-Q8\.gguf"):
        pull("hf://acme/gguf", cache_dir=cache_dir)
    model = pull("hf://acme/gguf/tiny-Q8.gguf", cache_dir=cache_dir)
    assert (model.path.name, model.format) == ("tiny-Q8.gguf", "gguf")
    with pytest.raises(ModelNotFound, match=r"it has tiny-Q4\.gguf"):
        pull("hf://acme/gguf/tiny-Q2.gguf", cache_dir=cache_dir)


def test_own_code_comes_only_when_it_was_asked_for(server: FakeHub, cache_dir: Path) -> None:
    auto_map = {"AutoModelForCausalLM": "modeling_tiny.Tiny"}
    server.put(REPO, {**FILES, "config.json": config("Tiny", auto_map=auto_map)})
    model = pull(f"hf://{REPO}", cache_dir=cache_dir)
    assert model.own_code == "modeling_tiny.Tiny"
    assert not list(model.path.glob("*.py"))
    assert (pull(f"hf://{REPO}", cache_dir=cache_dir, own_code=True).path / "modeling_tiny.py").is_file()


def test_a_full_disk_is_seen_before_the_download(
    server: FakeHub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = cache.shutil.disk_usage("/")
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(DiskFull, match=r"needs 16\.\d KiB more; the disk of .* has 1000 B free"):
        pull(f"hf://{REPO}", cache_dir=cache_dir)
    assert server.num("GET", "/resolve/") == 0


def test_list_and_rm(server: FakeHub, cache_dir: Path, tmp_path: Path) -> None:
    model = pull(f"hf://{REPO}", cache_dir=cache_dir)
    [listed] = list_models(cache_dir)
    assert (listed.model, listed.size_bytes) == (model, sum(p.stat().st_size for p in model.path.iterdir()))
    assert abs(listed.last_used_s - time.time()) < 60
    with pytest.raises(ModelError, match="in use by chat"):
        remove(cache_dir, model.uri, in_use={model.uri: "chat"})
    assert remove(cache_dir, model.uri) >= listed.size_bytes
    assert list_models(cache_dir) == []
    assert blobs(tmp_path) == []
    with pytest.raises(ModelNotFound):
        remove(cache_dir, model.uri)


def test_rm_keeps_files_that_another_name_holds(server: FakeHub, cache_dir: Path) -> None:
    branch = pull(f"hf://{REPO}", cache_dir=cache_dir)
    commit = pull(f"hf://{REPO}:{branch.path.name}", cache_dir=cache_dir)
    remove(cache_dir, branch.uri)
    assert locate(commit.uri, cache_dir=cache_dir) == commit
    remove(cache_dir, commit.uri)
    assert not commit.path.exists()


def test_two_pulls_at_once_fetch_once(server: FakeHub, cache_dir: Path, tmp_path: Path) -> None:
    server.bytes_per_s = 100_000.0
    children = [prepare(cache_dir) for _ in range(2)]
    last = [decode_line(child.communicate(timeout=60)[0].splitlines()[-1]) for child in children]
    assert last[0] == last[1]
    assert server.num("GET", "/resolve/") == 4


def test_kill_in_the_middle_leaves_what_is_resumed_and_is_never_used(
    server: FakeHub, cache_dir: Path, tmp_path: Path
) -> None:
    big = random.Random(1).randbytes(20 * 1024 * 1024)
    header = safetensors_file({"a": (len(big) // 4,)})
    weights = header[: len(header) - len(big)] + big
    server.put(REPO, {**FILES, "model.safetensors": weights})
    server.bytes_per_s = 20e6
    child = prepare(cache_dir)
    deadline = time.monotonic() + 30
    partial = 0
    while partial < 4_000_000 and time.monotonic() < deadline:
        time.sleep(0.02)
        found = list((tmp_path / "hf/hub").rglob("*.ironloom.incomplete"))
        partial = found[0].stat().st_size if found else 0
    os.kill(child.pid, signal.SIGKILL)
    child.communicate(timeout=10)
    assert 4_000_000 <= partial < len(weights)
    assert locate(f"hf://{REPO}", cache_dir=cache_dir) is None

    server.bytes_per_s = None
    server.requests.clear()
    again = prepare(cache_dir)
    model = decode_line(again.communicate(timeout=60)[0].splitlines()[-1])
    assert (model.path / "model.safetensors").read_bytes() == weights
    spans = [span for _, _, span in server.requests if span]
    assert spans
    assert int(spans[0].removeprefix("bytes=").removesuffix("-")) >= 4_000_000
    assert not [name for name in blobs(tmp_path) if "incomplete" in name]


def prepare(cache_dir: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ironloom.serve.models.prepare", f"hf://{REPO}", "--cache-dir", str(cache_dir)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
