"""What the rules about scripts must not say of good scripts, and must say of faults that are not plain to see."""

from __future__ import annotations

import random
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironloom.catalog import accelerators
from ironloom.check import registry
from ironloom.check.engine import Result, Setting, check
from ironloom.check.finding import Severity
from ironloom.check.inputs import read_texts
from ironloom.fleet.model import Domain, Fleet, FleetNode
from ironloom.workload.shapes.find import find

RULES = list(registry.load().values())
OF_SCRIPTS = [rule for rule in RULES if rule.family.endswith("-script")]
SETTING = Setting(shapes=find, accelerator=accelerators.find("H100-80GB"))


def result(text: str) -> Result:
    made = check(read_texts({"script.py": textwrap.dedent(text)}), RULES, SETTING)
    assert made.faults == ()
    return made


def fired(text: str) -> set[str]:
    return {registry.load()[finding.rule].name for finding in result(text).findings}


TRAINING = """
import os
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP, fully_shard
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler
from transformers import AutoModelForCausalLM
rank = int(os.environ["RANK"])
"""
SERVING = """
from vllm import LLM, SamplingParams
"""

GOOD = r"""
=== no-process-group
from common import setup
setup()
model = DDP(torch.nn.Linear(1, 1))
=== no-process-group
import accelerate
model = DDP(torch.nn.Linear(1, 1))
=== no-process-group
def wrap(model):
    return DDP(model)
=== no-process-group
fully_shard(torch.nn.Linear(1, 1))
=== device-never-set
os.environ['CUDA_VISIBLE_DEVICES'] = str(rank)
model = DDP(torch.nn.Linear(1, 1).cuda())
=== device-never-set
model = DDP(torch.nn.Linear(1, 1).to(rank))
=== unused-device-parameter
class A:
    def place(self, device):
        return torch.cuda.current_device()
=== unused-device-parameter
def place(device):
    return lambda: (device, torch.cuda.current_device())
=== collective-on-some-ranks
if rank != 0:
    dist.barrier()
print()
if rank == 0:
    dist.barrier()
=== collective-on-some-ranks
if rank == 0:
    print()
else:
    print()
dist.barrier()
=== collective-on-some-ranks
if rank < 4:
    dist.all_reduce(t, group=half)
=== collective-on-some-ranks
if rank == 0:
    dist.all_reduce(t, dist.ReduceOp.SUM, my_group)
=== collective-on-some-ranks
if step == 0:
    dist.barrier()
=== collective-on-some-ranks
def work():
    dist.broadcast(x, 0)
if rank == 0:
    dist.broadcast(x, 0)
else:
    work()
=== collective-on-some-ranks
def load():
    if rank == 0:
        prepare()
        dist.barrier()
        return read()
    dist.barrier()
    return read()
=== state-dict-on-some-ranks
import torch.distributed.checkpoint as dcp
m = FSDP(load())
if rank == 0:
    dcp.save(state, checkpoint_id='x', no_dist=True)
=== nccl-forced-to-tcp
os.environ['NCCL_IB_DISABLE'] = '0'
=== nccl-forced-to-tcp
os.environ['NCCL_IB_DISABLE'] = os.environ['X']
=== nccl-forced-to-tcp
if debug:
    os.environ['NCCL_P2P_DISABLE'] = '1'
=== gloo-on-gpu
dist.init_process_group('gloo')
model = DDP(torch.nn.Linear(1, 1))
=== gloo-on-gpu
dist.init_process_group('nccl' if x else 'gloo')
model = DDP(torch.nn.Linear(1, 1).cuda())
=== whole-model-on-one-gpu
m = AutoModelForCausalLM.from_pretrained('a/b')
m = FSDP(m)
m.to(rank)
=== whole-model-on-one-gpu
m = AutoModelForCausalLM.from_pretrained('a/b').to('cpu')
m = FSDP(m)
=== whole-model-on-one-gpu
m = AutoModelForCausalLM.from_pretrained('a/b').to(torch.bfloat16)
m = FSDP(m)
=== whole-model-on-one-gpu
m = AutoModelForCausalLM.from_pretrained('a/b')
if small:
    m.cuda()
m = FSDP(m)
=== fsdp-one-unit
m = FSDP(load(), auto_wrap_policy=policy)
=== fsdp-one-unit
m = FSDP(load(), **options)
=== fsdp-one-unit
options = {'auto_wrap_policy': policy}
m = FSDP(load(), **options)
=== fsdp-one-unit
m = load()
for layer in m.layers:
    fully_shard(layer)
fully_shard(m)
=== fsdp-one-unit
def shard(m):
    fully_shard(m)
for layer in layers:
    shard(layer)
=== fsdp-keeps-parameters
for layer in layers:
    fully_shard(layer)
fully_shard(m, reshard_after_forward=False)
=== optimizer-before-wrap
m = FSDP(load())
o = torch.optim.AdamW(m.parameters())
=== optimizer-before-wrap
o = torch.optim.AdamW(m.parameters())
m = load()
m = FSDP(m)
=== optimizer-before-wrap
if x:
    o = torch.optim.AdamW(m.parameters())
else:
    m = FSDP(m)
=== optimizer-before-wrap
o = torch.optim.AdamW(m.parameters())
m = DDP(m)
=== no-distributed-sampler
m = DDP(load())
for b in DataLoader(d):
    m(b).backward()
=== no-distributed-sampler
m = DDP(load())
for b in DataLoader(Shard(rank)):
    m(b).backward()
=== no-distributed-sampler
m = load()
for b in DataLoader(Data()):
    m(b).backward()
=== sampler-and-shuffle
s = DistributedSampler(d) if n > 1 else None
DataLoader(d, sampler=s, shuffle=(s is None))
=== clip-of-shards
m = fully_shard(load())
torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
=== gradients-never-cleared
for b in d:
    m(b).backward()
    o.step()
    for p in ps:
        p.grad = None
=== gradients-cleared-before-step
for b in d:
    m(b).backward()
    o.step()
    o.zero_grad()
=== gradients-cleared-before-step
for b in d:
    g(b).backward()
    og.step()
    od.zero_grad()
    m(b).backward()
    od.step()
=== gradients-cleared-before-step
for b in d:
    m(b).backward()
    if i % 4 == 0:
        o.step()
        o.zero_grad()
=== float16-without-scaler
with torch.autocast('cuda', dtype=torch.float16):
    y = m(x)
=== no-checkpoint
from utils import save
m = FSDP(load())
for b in d:
    m(b).backward()
save(m)
=== state-dict-on-some-ranks
m = DDP(load())
if rank == 0:
    torch.save(m.state_dict(), 'm.pt')
=== every-rank-saves
m = DDP(load())
if rank != 0:
    raise SystemExit
torch.save(m.state_dict(), 'm.pt')
=== every-rank-saves
m = DDP(load())
torch.save(m.state_dict(), f'm-{rank}.pt')
=== load-without-map-location
m = DDP(load())
x = torch.load('tokens.pt')
=== load-unpickles
torch.load('m.pt', weights_only=args.safe)
=== device-map-in-many-processes
m = AutoModelForCausalLM.from_pretrained('a/b', device_map={'': rank})
m = DDP(m)
=== device-map-in-many-processes
t = AutoModelForCausalLM.from_pretrained('a/b', device_map='auto')
m = DDP(load())
=== raw-prompts-to-instruct-model
LLM('Qwen/Qwen2.5-7B').generate(['Hello'])
=== raw-prompts-to-instruct-model
LLM('Qwen/Qwen2.5-7B-Instruct').generate(['<|im_start|>user\nHi<|im_end|>'])
=== raw-prompts-to-instruct-model
LLM('Qwen/Qwen2.5-7B-Instruct').generate(read('prompts.txt'))
=== raw-prompts-to-instruct-model
p = t.apply_chat_template(m)
LLM('a/b-Instruct').generate([f'{p}!'])
=== gated-model-without-token
LLM('meta-llama/Llama-3.1-8B', hf_token=token)
=== gated-model-without-token
from huggingface_hub import login
login()
LLM('meta-llama/Llama-3.1-8B')
=== gated-model-without-token
LLM('/models/meta-llama/Llama-3.1-8B')
=== answers-of-sixteen-tokens
LLM('a/b').generate(['x'], SamplingParams(max_tokens=None))
=== answers-of-sixteen-tokens
p = SamplingParams()
p.max_tokens = 9
LLM('a/b').generate(['x'], p)
=== answers-of-sixteen-tokens
LLM('a/b').generate(['x'], SamplingParams(**options))
=== engine-without-main-guard
llm = LLM('a/b')
=== engine-in-loop
for m in ['a/b', 'c/d']:
    llm = LLM(m)
    del llm
=== one-prompt-at-a-time
llm = LLM('a/b')
for batch in batches:
    llm.generate(batch)
=== one-prompt-at-a-time
llm = LLM('a/b')
for i in range(10):
    llm.generate(prompts)
=== one-prompt-at-a-time
llm = LLM('a/b')
for q in qs:
    llm.chat([[{'content': x}] for x in q])
=== remote-code-unpinned
LLM('./model', trust_remote_code=True)
=== engine-argument-unknown
LLM('a/b', enable_prefix_caching=True, max_num_seqs=8, worker_cls='x')
=== engine-argument-unknown
LLM(**{name: 1 for name in names})
=== engine-argument-value
LLM('a/b', gpu_memory_utilization=share)
=== engine-argument-value
SamplingParams(temperature=0, top_k=-1, top_p=1, n=1)
=== parallel-size-of-script
LLM('unknown/model', tensor_parallel_size=7)
=== engines-share-a-gpu
a = LLM('a/b', gpu_memory_utilization=0.5)
b = LLM('c/d', gpu_memory_utilization=0.45)
=== engines-share-a-gpu
if big:
    llm = LLM('a/b')
else:
    llm = LLM('c/d')
=== engines-share-a-gpu
def one():
    return LLM('a/b')
def two():
    return LLM('c/d')
=== engines-share-a-gpu
llm = LLM('a/b')
del llm
llm = LLM('c/d')
=== model-does-not-fit-script
LLM('Qwen/Qwen2.5-7B-Instruct')
=== model-does-not-fit-script
LLM('meta-llama/Meta-Llama-3-70B', tensor_parallel_size=tp)
=== fsdp-one-unit
from torch.distributed.fsdp import ShardingStrategy
m = FSDP(load(), sharding_strategy=ShardingStrategy.NO_SHARD)
=== backward-past-the-framework
from accelerate import Accelerator
accelerator = Accelerator()
m = accelerator.prepare(m)
for b in d:
    accelerator.backward(m(b))
=== backward-past-the-framework
import deepspeed
engine, *_ = deepspeed.initialize(model=m)
for b in d:
    engine.backward(engine(b))
    engine.step()
=== clip-past-the-accelerator
for b in d:
    m(b).backward()
    torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
=== trainer-argument-gone
from transformers import TrainingArguments
TrainingArguments(eval_strategy='no', **others)
=== trainer-fsdp-one-unit
from transformers import TrainingArguments
TrainingArguments(fsdp='full_shard', fsdp_config={'transformer_layer_cls_to_wrap': 'Layer'})
"""

FAULTY = r"""
=== engines-share-a-gpu
llm = LLM('a/b', tensor_parallel_size=2)
print(llm)
llm = LLM('c/d', tensor_parallel_size=2)
=== backward-past-the-framework
import deepspeed
engine, optimizer, _, _ = deepspeed.initialize(model=m)
for b in d:
    loss = engine(b)
    loss.backward()
    optimizer.step()
=== clip-past-the-accelerator
from accelerate import Accelerator
class T:
    def __init__(self):
        self.accelerator = Accelerator()
    def step(self, loss):
        self.accelerator.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.m.parameters(), 1.0)
=== trainer-argument-gone
from transformers import Trainer
Trainer(model=m, tokenizer=t)
=== whole-model-on-one-gpu
def load():
    m = AutoModelForCausalLM.from_pretrained('a/b')
    return m.cuda()
m = FSDP(load())
=== whole-model-on-one-gpu
m = AutoModelForCausalLM.from_pretrained('a/b')
m.to(f'cuda:{rank}')
m = FSDP(m)
=== whole-model-on-one-gpu
device = torch.device('cuda', rank)
m = AutoModelForCausalLM.from_pretrained('a/b').to(device)
fully_shard(m)
=== fsdp-one-unit
m = FSDP(load(), auto_wrap_policy=None)
=== collective-on-some-ranks
if not dist.get_rank():
    dist.barrier()
=== collective-on-some-ranks
if rank == 0 and step % 10 == 0:
    dist.all_reduce(loss)
=== state-dict-on-some-ranks
m = load()
fully_shard(m)
if rank == 0:
    torch.save(m.state_dict(), 'm.pt')
=== state-dict-on-some-ranks
class T:
    def __init__(self):
        self.m = FSDP(load())
    def save(self):
        if rank == 0:
            torch.save(self.m.state_dict(), 'm.pt')
=== clip-of-shards
class T:
    def __init__(self):
        self.m = FSDP(load())
    def step(self):
        torch.nn.utils.clip_grad_norm_(self.m.parameters(), 1.0)
=== raw-prompts-to-instruct-model
def run(llm, prompts):
    return llm.generate(prompts)
run(LLM('a/b-Instruct'), ['Hello', 'Bye'])
=== raw-prompts-to-instruct-model
import argparse
p = argparse.ArgumentParser()
p.add_argument('--model', default='a/b-chat')
args = p.parse_args()
LLM(model=args.model).generate('Hello')
=== eager-engine
options = dict(model='a/b', enforce_eager=True)
LLM(**options)
=== answers-of-sixteen-tokens
p = SamplingParams(temperature=0.5)
llm = LLM('a/b')
llm.generate(['x'], sampling_params=p)
=== engine-without-main-guard
x = torch.zeros(1).cuda()
llm = LLM('a/b')
=== engine-without-main-guard
import sglang as sgl
engine = sgl.Engine(model_path='a/b')
=== one-prompt-at-a-time
llm = LLM('a/b')
for name in names:
    llm.generate(f'Say hello to {name}')
=== engine-argument-value
SamplingParams(n=4, temperature=0.0)
=== engine-argument-value
SamplingParams(max_tokens=10, min_tokens=20)
=== engine-argument-unknown
LLM('a/b', port=8000)
=== engine-argument-gone
SamplingParams(use_beam_search=True)
=== model-does-not-fit-script
LLM('meta-llama/Meta-Llama-3-70B')
=== load-without-map-location
m = DDP(load())
state = torch.load('m.pt')
m.load_state_dict(state['model'])
"""


def cases(block: str) -> list[tuple[str, str]]:
    """(rule, script) of a block in which each script follows a line `=== rule`."""
    parts = [part.partition("\n") for part in block.strip().removeprefix("=== ").split("\n=== ")]
    return [(rule, f"{text}\n") for rule, _, text in parts]


def whole(rule: str, text: str) -> str:
    return (TRAINING if registry.find(rule).family == "training-script" else SERVING) + text


@pytest.mark.parametrize(("rule", "text"), cases(GOOD))
def test_a_good_script_is_left_alone(rule: str, text: str) -> None:
    assert rule not in fired(whole(rule, text))


@pytest.mark.parametrize(("rule", "text"), cases(FAULTY))
def test_a_fault_is_found_through_functions_fields_and_dictionaries(rule: str, text: str) -> None:
    assert rule in fired(whole(rule, text))


@pytest.mark.parametrize(
    ("comment", "is_kept"),
    [
        ("llm = LLM('a/b', enforce_eager=True)  # ironloom: ignore IL753 a debugger is attached", False),
        ("# ironloom: ignore eager-engine a debugger is attached\nllm = LLM('a/b', enforce_eager=True)", False),
        ("# ironloom: ignore-file IL753 debugging\n\nllm = LLM('a/b', enforce_eager=True)", False),
        ("llm = LLM('a/b', enforce_eager=True)  # ironloom: ignore IL754 another rule", True),
        ("# ironloom: ignore IL753 too far away\nprint()\nllm = LLM('a/b', enforce_eager=True)", True),
    ],
)
def test_a_comment_ignores_what_stands_on_its_line(comment: str, is_kept: bool) -> None:
    made = result(f"from vllm import LLM\n{comment}\n")
    assert ("IL753" in {finding.rule for finding in made.findings}) is is_kept
    assert ("IL753" in {finding.rule for finding in made.ignored}) is not is_kept


def test_a_comment_in_a_call_of_many_lines_counts_for_the_argument_it_stands_by() -> None:
    text = (
        "from vllm import LLM\nllm = LLM(\n    'a/b',\n    enforce_eager=True,  # ironloom: ignore IL753 debugging\n)\n"
    )
    made = result(text)
    assert [finding.rule for finding in made.ignored] == ["IL753"]


JOB = """\
apiVersion: batch/v1
kind: Job
metadata:
  name: batch
spec:
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: vllm/vllm-openai:v0.11.0
        command: [python, /app/batch.py]
        env:
        - name: {variable}
          valueFrom:
            secretKeyRef:
              name: hub
              key: token
"""


@pytest.mark.parametrize(("variable", "is_told"), [("HF_TOKEN", False), ("OTHER", True)])
def test_the_environment_of_the_manifest_that_runs_a_script_counts(variable: str, is_told: bool) -> None:
    texts = {"job.yaml": JOB.format(variable=variable), "batch.py": SERVING + "LLM('meta-llama/Llama-3.1-8B')\n"}
    found = check(read_texts(texts), RULES, SETTING).findings
    assert ("IL752" in {finding.rule for finding in found if finding.file == "batch.py"}) is is_told


@pytest.mark.parametrize(("size", "is_told"), [(4, False), (8, True)])
def test_a_tensor_parallel_size_is_held_against_the_nodes_that_there_are(size: int, is_told: bool) -> None:
    nodes = tuple(
        FleetNode(name=f"n{i}", gpu_resource="nvidia.com/gpu", allocatable={"nvidia.com/gpu": 4}) for i in range(2)
    )
    fleet = Fleet(name="test", source="test", nodes=nodes, root=Domain(value="test", level=None, nodes=nodes))
    text = SERVING + f"LLM('unknown/model', tensor_parallel_size={size})\n"
    found = check(read_texts({"batch.py": text}), OF_SCRIPTS, Setting(fleet=fleet)).findings
    told = [finding for finding in found if finding.rule == "IL763"]
    assert bool(told) is is_told
    assert all("no node of the fleet has more than 4" in finding.message for finding in told)


def test_a_wrong_name_is_mended_in_its_place() -> None:
    text = "from vllm import LLM\nllm = LLM('a/b', tensor_paralel_size=2)\n"
    finding = next(finding for finding in result(text).findings if finding.rule == "IL760")
    assert finding.patch is not None
    assert finding.patch.is_safe
    edit = finding.patch.edits[0]
    assert text[: edit.start] + edit.text + text[edit.end :] == text.replace("paralel", "parallel")


def test_a_patch_leaves_a_script_that_can_be_read() -> None:
    for rule in OF_SCRIPTS:
        for finding in check(read_texts({"script.py": rule.bad}), [rule], SETTING).findings:
            text = rule.bad
            for edit in finding.patch.edits if finding.patch is not None else ():
                text = text[: edit.start] + edit.text + text[edit.end :]
            assert not check(read_texts({"script.py": text}), [], SETTING).is_unreadable


@pytest.mark.parametrize("rule", OF_SCRIPTS, ids=lambda rule: rule.id)
def test_a_good_example_has_no_fault_of_another_rule_that_stops_it(rule) -> None:
    errors = [finding for finding in result(rule.good).findings if finding.severity == "error"]
    assert [f"{finding.rule} {finding.message}" for finding in errors] == []


@given(st.integers(min_value=0), st.sampled_from(OF_SCRIPTS), st.sampled_from(OF_SCRIPTS))
@settings(max_examples=150, deadline=None)
def test_no_rule_stumbles_over_a_script_that_was_mixed_up(seed: int, first, second) -> None:
    lines = [*first.bad.splitlines(), *second.bad.splitlines(), *second.good.splitlines()]
    chance = random.Random(seed)
    for _ in range(chance.randint(0, 12)):
        at, other = chance.randrange(len(lines)), chance.randrange(len(lines))
        work = chance.randrange(5)
        if work == 0:
            lines[at], lines[other] = lines[other], lines[at]
        elif work == 1:
            del lines[at]
            lines = lines or [""]
        elif work == 2:
            lines[at] = f"    {lines[at]}"
        elif work == 3:
            lines.insert(
                at, chance.choice(["def f(*a, **k):", "for x in y:", "class A:", "if rank == 0:", "try:", "else:"])
            )
        else:
            lines[at] = lines[at].replace(chance.choice("(),.=[]"), chance.choice(["", "**", "(", "]", "lambda: "]))
    result("\n".join(lines))


def test_a_model_of_a_script_that_is_not_judged_is_told_in_a_note(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    for model, why in ((str(tmp_path), "is Mamba: a state-space model"), ("nobody/none", "none of the models")):
        text = f'from vllm import LLM\n\nllm = LLM(model="{model}")\n'
        result = check(read_texts({"s.py": text}), registry.select(["IL766"]), SETTING)
        (found,) = result.findings
        assert (found.severity, found.line) == (Severity.NOTE, 3)
        assert why in found.message
        assert result.exit_status() == 0
