"""Two published listings, an FSDP loop and a vLLM batch: each known fault of theirs on its line, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from ironloom.catalog import accelerators
from ironloom.check import registry
from ironloom.check.engine import Setting, check
from ironloom.check.finding import Finding
from ironloom.check.inputs import read_texts
from ironloom.workload.shapes.find import find

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "article_listings"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the listings are not beside this checkout")


def findings(name: str, setting: Setting | None = None) -> list[Finding]:
    result = check(
        read_texts({name: (FOLDER / name).read_text()}), list(registry.load().values()), setting or Setting(shapes=find)
    )
    assert result.faults == ()
    return list(result.findings)


def of(found: list[Finding], name: str) -> Finding:
    rule = registry.find(name).id
    named = [finding for finding in found if finding.rule == rule]
    assert len(named) == 1, f"{name} is told once"
    return named[0]


@pytest.mark.parametrize(
    ("rule", "line", "evidence"),
    [
        ("whole-model-on-one-gpu", 23, 'MyLargeLanguageModel().to(f"cuda:{device_id}")'),
        ("unused-device-parameter", 5, "line 10: torch.cuda.current_device()"),
        ("device-never-set", 10, "line 8"),
        ("no-process-group", 8, "init_process_group"),
        ("fsdp-one-unit", 8, "auto_wrap_policy is not passed"),
        ("fsdp-keeps-parameters", 11, "gradients and optimizer state"),
        ("limit-all-gathers-no-effect", 18, "nothing to limit"),
        ("fsdp1-dated", 3, "line 8"),
        ("low-precision-reduce", 14, ""),
        ("no-distributed-sampler", 26, "dataloader"),
        ("no-gradient-clipping", 31, "nothing in the script clips gradients"),
        ("no-checkpoint", 26, "nothing in the script saves"),
    ],
)
def test_each_fault_of_the_fsdp_loop_is_on_its_line(rule: str, line: int, evidence: str) -> None:
    finding = of(findings("fsdp_train.py"), rule)
    assert finding.line == line
    assert evidence in " ".join(finding.evidence)


def test_the_names_that_the_fsdp_loop_never_gives_are_each_told_once() -> None:
    undefined = registry.find("undefined-name").id
    found = {f.path: f.line for f in findings("fsdp_train.py") if f.rule == undefined}
    assert found == {"MyLargeLanguageModel": 23, "device_id": 23, "dataloader": 26, "criterion": 29}


def test_nothing_else_is_said_of_the_fsdp_loop() -> None:
    assert len(findings("fsdp_train.py")) == 16


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ("gated-model-without-token", 6),
        ("eager-engine", 10),
        ("raw-prompts-to-instruct-model", 24),
    ],
)
def test_each_fault_of_the_batch_is_on_its_line(rule: str, line: int) -> None:
    assert of(findings("vllm_batch.py"), rule).line == line


def test_nothing_else_is_said_of_the_batch() -> None:
    assert len(findings("vllm_batch.py")) == 3


def test_seventy_billion_parameters_fit_two_cards_of_80_gb_barely() -> None:
    setting = Setting(shapes=find, accelerator=accelerators.find("H100-80GB"))
    finding = of(findings("vllm_batch.py", setting), "model-does-not-fit-script")
    assert finding.line == 6
    assert finding.severity == "note"
    assert "fits 2 × H100-SXM5-80GB, barely" in finding.message
    sums = " ".join(finding.evidence)
    assert "70.554 billion parameters" in sums
    assert "65.7 GiB a GPU" in sums
    assert "160 KiB a GPU" in sums
    assert "4–7 sequences of 4096" in sums
