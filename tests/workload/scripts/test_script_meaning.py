"""What can be said of a script without running it: full names, values, scopes, ranks."""

from __future__ import annotations

import ast

import pytest

from ironloom.workload.scripts.model import Script
from ironloom.workload.scripts.ranks import is_for_first_rank
from ironloom.workload.scripts.read import read_script
from ironloom.workload.scripts.terms import UNKNOWN

FIELD = """
import torch
class Trainer:
    def __init__(self):
        self.optimizer = torch.optim.AdamW([])
    def run(self):
        self.optimizer.step()
"""
PAIR = """
import torch
def both():
    return torch.nn.ReLU(), torch.optim.SGD([])
model, optimizer = both()
optimizer.step()
"""


def script(text: str) -> Script:
    return read_script(text, "script.py")


def last_call(read: Script) -> ast.Call:
    return [node for node in read.nodes if isinstance(node, ast.Call)][-1]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("import vllm\nvllm.LLM()", "vllm.LLM"),
        ("import vllm as v\nv.LLM()", "vllm.LLM"),
        ("from vllm import LLM as Engine\nEngine()", "vllm.LLM"),
        ("from vllm.entrypoints.llm import LLM\nLLM()", "vllm.LLM"),
        ("import torch.distributed as dist\ndist.barrier()", "torch.distributed.barrier"),
        ("import torch.distributed.fsdp\ntorch.distributed.fsdp.wrap.wrap()", "torch.distributed.fsdp.wrap.wrap"),
        ("import vllm\nmake = vllm.LLM\nmake()", "vllm.LLM"),
        ("import vllm\nllm = vllm.LLM()\nllm.generate", "vllm.LLM"),
        ("import vllm\nllm = vllm.LLM()\nllm.generate([])", "vllm.LLM().generate"),
        ("import vllm\ndef make():\n    return vllm.LLM()\nllm = make()\nllm.chat()", "vllm.LLM().chat"),
        ("try:\n    import vllm\nexcept ImportError:\n    vllm = None\nvllm.LLM()", "vllm.LLM"),
        ("def f(vllm):\n    vllm.LLM()", ""),
        ("from a import x\nfrom b import x\nx()", "b.x"),
        ("import a, b\nif a:\n    x = a.x\nelse:\n    x = b.x\nx()", ""),
        ("import torch\nm = torch.compile(torch.nn.Linear(1, 1).to(0))\nm.train()", "torch.nn.Linear().train"),
        (FIELD, "torch.optim.AdamW().step"),
        (PAIR, "torch.optim.SGD().step"),
        ("print()", "print"),
        ("x = x()", ""),
        ("from .tools import load\nload()", ".tools.load"),
    ],
)  # fmt: skip
def test_a_call_has_its_full_name(text: str, name: str) -> None:
    read = script(text)
    assert read.names.one(last_call(read).func) == name


def test_a_parameter_is_what_the_calls_pass() -> None:
    read = script("import vllm\ndef use(llm):\n    llm.chat()\nuse(vllm.LLM())\nuse(vllm.LLM())\n")
    call = next(call for call in read.calls if call.attribute == "chat")
    assert call.name == "vllm.LLM().chat"


def test_the_last_assignment_before_a_use_counts() -> None:
    read = script("import a, b\nm = a.M()\nm.one()\nm = b.M(m)\nm.two()\n")
    assert [call.name for call in read.calls if call.attribute in {"one", "two"}] == ["a.M().one", "b.M().two"]


def test_a_branch_adds_to_what_was_before() -> None:
    read = script("import a, b\nm = a.M()\nif a:\n    m = b.M(m)\nm.go()\n")
    assert read.calls[-1].names == {"a.M().go", "b.M().go"}


def test_a_loop_brings_what_stands_below() -> None:
    read = script("import a, b\nm = a.M()\nfor x in y:\n    m.go()\n    m = b.M()\n")
    assert read.methods("go")[0].names == {"a.M().go", "b.M().go"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("f(2)", 2),
        ("n = 2\nf(n * 4)", 8),
        ("n = 2\nn = 3\nf(n)", 3),
        ("if x:\n    n = 2\nelse:\n    n = 3\nf(n)", UNKNOWN),
        ("if x:\n    n = 2\nelse:\n    n = 2\nf(n)", 2),
        ("n = 2\nn += 1\nf(n)", UNKNOWN),
        ("for n in range(3):\n    f(n)", UNKNOWN),
        ("def g(n):\n    f(n)\ng(4)", 4),
        ("def g(n):\n    f(n)\ng(4)\ng(5)", UNKNOWN),
        ("def g(n):\n    f(n)\ng(4)\nrun(g)", UNKNOWN),
        ("def g(n):\n    f(n)", UNKNOWN),
        ("f(f'a{1}')", UNKNOWN),
        ("f('a' + 'b')", "ab"),
        ("a, b = 1, 2\nf(b)", 2),
        ("f(['x', y])", ["x", UNKNOWN]),
        ("f(-0.5)", -0.5),
        ("f(not False)", True),
        ("f(1 / 0)", UNKNOWN),
        ("x = ['a']\nx.append('b')\nf(x)", UNKNOWN),
        ("f({'a': 1})", {"a": 1}),
        ("import os\nf(int(os.environ['TP']))", UNKNOWN),
    ],
)
def test_a_value_is_the_constant_that_it_is_in_every_run(text: str, value: object) -> None:
    read = script(text)
    call = next(call for call in read.calls if isinstance(call.node.func, ast.Name) and call.node.func.id == "f")
    found = read.values.of(call.node.args[0])
    assert found == value
    assert type(found) is type(value)


def test_an_option_of_the_command_line_has_its_default_as_what_is_usual() -> None:
    text = "import argparse\np = argparse.ArgumentParser()\np.add_argument('--tp-size', type=int, default=4)\n"
    read = script(text + "args = p.parse_args()\nf(args.tp_size)\n")
    node = last_call(read).args[0]
    assert read.values.of(node) is UNKNOWN
    assert read.values.usual(node) == 4


@pytest.mark.parametrize(
    ("text", "names", "is_open"),
    [
        ("f(1, a=2)", {"a"}, False),
        ("k = {'a': 1, 'b': 2}\nf(**k)", {"a", "b"}, False),
        ("f(**dict(a=1))", {"a"}, False),
        ("k = {'a': 1}\nk['b'] = 2\nf(**k)", set(), True),
        ("f(**load())", set(), True),
        ("f(*args)", set(), True),
    ],
)
def test_arguments_are_seen_through_dictionaries(text: str, names: set[str], is_open: bool) -> None:
    read = script(text)
    call = next(call for call in read.calls if isinstance(call.node.func, ast.Name) and call.node.func.id == "f")
    assert set(call.arguments.named) == names
    assert call.arguments.is_open is is_open


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("print(x)", ["x"]),
        ("def f():\n    return x\nx = 1", []),
        ("def f():\n    return x", ["x"]),
        ("def f():\n    global x\n    x = 1\nprint(x)", []),
        ("from m import *\nprint(x)", []),
        ("exec('x = 1')\nprint(x)", []),
        ("[x for x in range(3)]\nprint(x)", ["x"]),
        ("print([y for x in range(3) if (y := x)], y)", []),
        ("class A:\n    x = 1\n    def f(self):\n        return x", ["x"]),
        ("class A:\n    x = 1\n    y = x", []),
        ("class A:\n    y = x", ["x"]),
        ("try:\n    unicode\nexcept NameError:\n    unicode = str\nprint(unicode)", []),
        ("try:\n    basestring\nexcept NameError:\n    pass", []),
        ("try:\n    import torch\nexcept ImportError:\n    torch = None\nprint(torch)", []),
        ("def f():\n    x = 1\n    def g():\n        nonlocal x\n        x += 1\n    return g, x", []),
        ("match 1:\n    case [a, *b] if c:\n        print(a, b)\n    case {'k': d, **e}: d, e", ["c"]),
        ("with open('f') as g:\n    print(g)", []),
        ("try:\n    pass\nexcept ValueError as e:\n    print(e)", []),
        ("from __future__ import annotations\ndef f(x: Missing) -> Gone: ...", []),
        ("def f(x: Missing): ...", ["Missing"]),
        ("def f():\n    x: Missing = 1\n    return x", []),
        ("del x", []),
        ("lambda a, *b, c=d, **e: (a, b, c, e)", ["d"]),
        ("@deco\ndef f(): ...", ["deco"]),
        ("print(__file__, __name__, __doc__)", []),
        ("class A:\n    def f(self):\n        return __class__, super().f()", []),
        ("get_ipython().run_line_magic('pip', 'install vllm')", []),
        ("x: int\nprint(x)", []),
        ("for i in range(3):\n    pass\nelse:\n    print(i)", []),
        ("async def f():\n    async with g() as h:\n        async for i in h:\n            print(i)", ["g"]),
        ("import a.b.c\nprint(a)", []),
        ("print({k: v for k, v in items})", ["items"]),
        ("def f(a=b, *, c: d = e): ...", ["b", "d", "e"]),
        ("def f():\n    return 1\n    return x", []),
        ("@profile\ndef f():\n    return _('text')", []),
        ("import sys\nif sys.version_info[0] < 3:\n    str = unicode", []),
        ("str = unicode", ["unicode"]),
        ("class A(metaclass=M):\n    x = given", ["M"]),
    ],
)
def test_names_that_nothing_gives(text: str, names: list[str]) -> None:
    assert sorted(script(text).undefined) == names


def test_an_undefined_name_has_all_its_uses_in_order() -> None:
    uses = script("print(x)\ny = [x for x in z]\nprint(x)\n").undefined["x"]
    assert [node.lineno for node in uses] == [1, 3]


@pytest.mark.parametrize(
    ("condition", "is_first"),
    [
        ("rank == 0", True),
        ("rank != 0", False),
        ("not rank", True),
        ("dist.get_rank() == 0", True),
        ("self.rank == 0", True),
        ("rank > 0", False),
        ("int(os.environ['RANK']) == 0", True),
        ("is_main_process()", True),
        ("accelerator.is_main_process", True),
        ("not accelerator.is_main_process", False),
        ("rank == 0 and step % 10 == 0", True),
        ("rank == 1", None),
        ("rank < 8", None),
    ],
)
def test_who_comes_through_a_condition_on_the_rank(condition: str, is_first: bool | None) -> None:
    read = script(f"if {condition}:\n    save()\n")
    guard = read.flow.rank_guard(last_call(read))
    assert guard is not None
    assert is_for_first_rank(guard) is is_first


@pytest.mark.parametrize(
    "condition", ["step % 10 == 0", "args.rank_by == 'loss'", "world_size > 1", "main", "lora_rank > 0"]
)
def test_what_every_process_answers_alike_is_no_condition_on_the_rank(condition: str) -> None:
    read = script(f"if {condition}:\n    save()\n")
    assert read.flow.rank_guard(last_call(read)) is None


def test_loops_go_on_through_the_only_caller() -> None:
    read = script("def step(b):\n    loss(b).backward()\nfor epoch in range(3):\n    for b in data:\n        step(b)\n")
    assert [loop.lineno for loop in read.flow.loops(read.methods("backward")[0].node)] == [4, 3]
