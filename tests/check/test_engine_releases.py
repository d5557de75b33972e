"""Options of servers held against the release that an image's tag names."""

from __future__ import annotations

import pytest

from ironloom.check import registry
from ironloom.check.engine import Setting, check
from ironloom.check.finding import Confidence, Finding, Severity
from ironloom.check.inputs import read_texts
from ironloom.check.rules.serving_examples import serving
from ironloom.workload.manifests.engine_options import Presence, options_of, release_of

RULES = [rule for rule in registry.load().values() if rule.id in {"IL402", "IL403", "IL404", "IL405", "IL425"}]
QWEN = "--model=Qwen/Qwen3-8B"
SGLANG, TRTLLM, VLLM = "lmsysorg/sglang", "nvcr.io/nvidia/tensorrt-llm/release", "vllm/vllm-openai"
LAUNCH = "command: [python3, -m, sglang.launch_server, --model-path, Qwen/Qwen3-8B"


def findings(text: str) -> list[Finding]:
    result = check(read_texts({"m.yaml": text}), RULES, Setting())
    assert result.faults == ()
    return list(result.findings)


def sglang(*options: str, tag: str = "v0.5.9-cu126") -> list[Finding]:
    return findings(serving(image=f"{SGLANG}:{tag}", token=False, container=", ".join((LAUNCH, *options)) + "]\n"))


def trtllm(*options: str, tag: str = "1.2.0") -> list[Finding]:
    words = ", ".join(("trtllm-serve", *options))
    return findings(serving(image=f"{TRTLLM}:{tag}", token=False, container=f"command: [{words}]\n"))


def vllm(*options: str, tag: str) -> list[Finding]:
    return findings(serving(QWEN, *options, image=f"{VLLM}:{tag}", token=False))


@pytest.mark.parametrize(
    "options",
    [
        ("--tp-size", "'2'", "--mem-fraction-static", "'0.85'", "--trust-remote-code"),
        ("--tensor-parallel-size=2", "--context-length=8192", "--host", "0.0.0.0", "--enable-metrics"),
        ("--tp", "'2'"),
        ("--disable-cuda-graph", "--enable-dp-attention", "--dp-size=2"),
        ("--cuda-graph-bs", "'1'", "'2'", "'4'"),
        ("--mem-fraction-static=$(SHARE)",),
    ],
)
def test_what_sglang_has_is_taken(options: tuple[str, ...]) -> None:
    assert sglang(*options) == []


@pytest.mark.parametrize(
    ("option", "near"),
    [
        ("--mem-fraction-statik=0.8", "--mem-fraction-static"),
        ("--tp_size=2", "--tp-size"),
        ("--context_length=4096", "--context-length"),
        ("--trust-remote-cod3", "--trust-remote-code"),
    ],
)
def test_a_name_that_sglang_does_not_have_is_found_with_the_nearest_and_what_was_read(option: str, near: str) -> None:
    (found,) = sglang(option)
    assert (found.rule, found.severity, found.confidence) == ("IL402", Severity.ERROR, Confidence.CERTAIN)
    assert f"(it has {near})" in found.message
    assert "releases from 0.3.6 to 0.5.23" in found.evidence[0]
    assert found.patch is not None


def test_a_name_without_a_neighbour_is_an_error_only_in_a_release_that_was_read() -> None:
    assert [one.rule for one in sglang("--utterly-unheard-of=1")] == ["IL402"]
    assert sglang("--utterly-unheard-of=1", tag="v0.4.6.post2-cu124") == []
    assert sglang("--utterly-unheard-of=1", tag="v0.9.0") == []
    assert sglang("--utterly-unheard-of=1", tag="latest") == []


def test_an_option_of_sglang_that_went_is_found_and_so_is_one_to_come() -> None:
    (gone,) = sglang("--enable-flashinfer-mla", tag="v0.5.9")
    assert (gone.rule, gone.evidence) == ("IL403", ("0.4.6.post5 had it, 0.4.7.post1 does not",))
    (early,) = sglang("--enable-flashinfer-mla", "--cuda-graph-max-bs-decode=8", tag="v0.4.6.post5-cu124")
    assert early.rule == "IL425"
    assert "SGLang 0.4.6.post5 has no option --cuda-graph-max-bs-decode yet" in early.message
    assert early.evidence[0].endswith("has it")


def test_a_newest_image_is_warned_of_what_went() -> None:
    (found,) = sglang("--enable-flashinfer-mla", tag="latest")
    assert (found.rule, found.severity, found.confidence) == ("IL403", Severity.WARNING, Confidence.LIKELY)


def test_the_beginning_of_one_name_stands_for_it_though_it_was_a_name_itself() -> None:
    assert sglang("--nsa-decode=flashmla", tag="v0.5.9") == [], "--nsa-decode-backend"


def test_tensorrt_llm_tells_dashes_from_underscores() -> None:
    assert (
        trtllm("Qwen/Qwen3-8B", "--tp_size", "'2'", "--kv_cache_free_gpu_memory_fraction=0.8", "--no-telemetry") == []
    )
    assert trtllm("serve", "Qwen/Qwen3-8B", "--config", "/a.yaml", "--generation-config=auto") == []
    (found,) = trtllm("Qwen/Qwen3-8B", "--tp-size", "'2'")
    assert (found.rule, found.severity, found.confidence) == ("IL402", Severity.WARNING, Confidence.LIKELY)
    assert "(it has --tp_size)" in found.message


def test_other_commands_of_tensorrt_llm_have_other_options() -> None:
    assert trtllm("disaggregated", "-c", "/a.yaml", "--request_timeout=60", "--server_start_timeou=3") == []


def test_a_value_of_the_wrong_kind_is_found_in_both() -> None:
    assert [one.rule for one in sglang("--mem-fraction-static=lots")] == ["IL404"]
    assert [one.rule for one in trtllm("Qwen/Qwen3-8B", "--max_batch_size=many")] == ["IL404"]


@pytest.mark.parametrize(
    ("tag", "option", "rule"),
    [
        ("v0.8.5", "--data-parallel-size=2", None),
        ("v0.7.3", "--data-parallel-size=2", "IL425"),
        ("v0.8.0", "--data-parallel-size=2", "IL425"),
        ("v0.8.3", "--data-parallel-size=2", None),
        ("v0.8.4", "--data-parallel-size=2", None),
        ("v0.11.0", "--nnodes=2", "IL425"),
        ("v0.11.2", "--nnodes=2", None),
        ("v0.11.1", "--nnodes=2", None),
        ("v0.11.2", "--num-lookahead-slots=1", None),
        ("v0.12.0", "--num-lookahead-slots=1", "IL403"),
        ("v0.17.1", "--swap-space=4", None),
        ("v0.18.1", "--swap-space=4", "IL403"),
        ("v0.30.0", "--custom-histogram-buckets=1", "IL425"),
        ("v0.31.0", "--custom-histogram-buckets=1", "IL425"),
        ("v0.28.0", "--ec-manager-config={}", None),
        ("v0.27.0", "--ec-manager-config={}", "IL425"),
        ("v0.8.5.post1", "--data-parallel-address=a", None),
    ],
)  # fmt: skip
def test_a_release_between_two_that_were_read_lacks_only_what_its_neighbour_lacks(
    tag: str, option: str, rule: str | None
) -> None:
    assert [one.rule for one in vllm(option, tag=tag)] == ([rule] if rule else [])


@pytest.mark.parametrize("version", ["0.7.3", "0.8.5", "0.11.2", "0.28.0", "0.30.0", "0.31.0"])
def test_these_releases_were_read(version: str) -> None:
    assert version in options_of("vllm").versions


def test_a_release_that_was_read_knows_each_of_its_ranges() -> None:
    for program in ("vllm", "sglang"):
        options = options_of(program)
        order = [release_of(version) for version in options.versions]
        assert None not in order
        assert order == sorted(order, key=lambda release: release or (0, 0, 0, 0))
        for name, (since, until) in options.ranges.items():
            for version in filter(None, (since, until)):
                release = release_of(version)
                assert release is not None
                assert options.presence(name, release) is Presence.HAS, name
            before, after = options.around(name)
            assert all(
                options.presence(name, release) is not Presence.HAS
                for version in (before, after)
                if (release := release_of(version)) is not None
            ), name


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("v0.4.6.post5-cu124", (0, 4, 6, 5)),
        ("0.11.2", (0, 11, 2, 0)),
        ("v0.20", (0, 20, 0, 0)),
        ("1.2.0rc3", (1, 2, 0, -997)),
        ("latest", None),
        ("", None),
    ],
)
def test_a_tag_is_read_as_a_release(text: str, release: tuple[int, ...] | None) -> None:
    assert release_of(text) == release


def test_candidates_come_before_their_release_and_posts_after() -> None:
    texts = ["1.1.0", "1.2.0rc3", "1.2.0rc10", "1.2.0", "1.2.0.post1", "1.2.1"]
    read = [release for text in texts if (release := release_of(text)) is not None]
    assert read == sorted(read)
    assert len(read) == len(texts)


@pytest.mark.parametrize(
    ("tag", "rules"),
    [("v0.14.1", []), ("v0.16.0", []), ("v0.17.1", ["IL403"]), ("v0.32.0", ["IL403"]), ("v0.33.0", [])],
)
def test_an_option_that_went_and_came_again_is_told_where_it_is_not(tag: str, rules: list[str]) -> None:
    found = vllm("--disable-log-requests", tag=tag)
    assert [one.rule for one in found] == rules
    assert all(one.evidence == ("0.16.0 had it, 0.17.1 does not, 0.33.0 has it again",) for one in found)


def test_between_releases_that_were_read_nothing_is_said_of_a_gap_s_ends() -> None:
    options = options_of("vllm")
    assert options.presence("--disable-log-requests", (0, 16, 1, 0)) is Presence.UNKNOWN
    assert options.presence("--disable-log-requests", (0, 32, 5, 0)) is Presence.UNKNOWN


def test_disable_beside_enable_came_with_one_release_and_says_the_opposite() -> None:
    assert [one.rule for one in vllm("--disable-prefix-caching", tag="v0.32.0")] == ["IL425"]
    assert vllm("--disable-prefix-caching", tag="v0.33.0") == []
    match = options_of("vllm").by_name["--disable-prefix-caching"]
    assert match.negated
    assert match.option.name == "--enable-prefix-caching"
