"""Scripts that are generated to be hard: read in time that grows with their length, or refused in a sentence."""

from __future__ import annotations

import time

import pytest

from ironloom.check import registry
from ironloom.check.engine import Setting, check
from ironloom.check.inputs import read_texts

IMPORTS = """\
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from vllm import LLM, SamplingParams
"""
LIMIT_S = 10.0
"""Far above what any of these takes; what grows with the square of the length, or doubles, takes minutes."""
SCRIPTS = {
    "a name bound again and again": "x = 1\n" + "x = x + 1\n" * 2000 + "LLM(x)\n",
    "a name bound in a loop": "for i in y:\n" + "    x = x + 1\n" * 2000,
    "numbers that double": "x0 = 1\n" + "".join(f"x{i + 1} = x{i} + x{i}\n" for i in range(60)) + "LLM(x35)\n",
    "lists that double": "x0 = [1]\n" + "".join(f"x{i + 1} = [x{i}, x{i}]\n" for i in range(60)) + "LLM('a', n=x35)\n",
    "devices that branch": "d0 = 'cuda'\n"
    + "".join(f"d{i + 1} = d{i} if a else d{i}\n" for i in range(60))
    + "FSDP(load().to(d35))\n",
    "names that nothing gives": "".join(f"f{i}(g{i})\n" for i in range(1000)),
    "arguments that nothing has": "LLM('a/b', " + ", ".join(f"bad{i}=1" for i in range(2000)) + ")\n",
    "optimizers and wraps": "".join(
        f"o{i} = torch.optim.AdamW(m{i}.parameters())\nm{i} = FSDP(m{i})\n" for i in range(600)
    ),
    "collectives under a rank": "if rank == 0:\n" + "    dist.barrier()\n" * 1000,
    "steps in one loop": "for b in d:\n" + "    loss.backward()\n    o.zero_grad()\n    o.step()\n" * 600,
    "everything on one line": "x = [" + ", ".join(f"f(a{i})" for i in range(2000)) + "]\n",
    "branches after branches": "if a:\n    f()\n"
    + "".join(f"elif rank == {i}:\n    dist.barrier()\n" for i in range(300)),
    "functions that call the next": "".join(f"def f{i}(x):\n    return f{i + 1}(x)\n" for i in range(600))
    + "LLM(f0('a'))\n",
    "functions that call each other": "def f(x):\n    return g(x)\ndef g(x):\n    return f(x)\nFSDP(f(m).to('cuda'))\n",
    "a sum of hundreds": "x = " + " + ".join(["'a'"] * 800) + "\nLLM(x)\n",
    "attributes of attributes": "x = a" + ".b" * 800 + "\n",
    "loops in a list": "x = " + "[" * 15 + "1" + " for a in b]" * 15 + "\n",
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_that_is_hard_to_follow_is_followed_in_bounds(name: str) -> None:
    started = time.process_time()
    result = check(read_texts({"script.py": IMPORTS + SCRIPTS[name]}), list(registry.load().values()), Setting())
    assert result.faults == ()
    assert time.process_time() - started < LIMIT_S
