"""What a manifest asks for, when it asks for training: one frozen configuration, read by the trainer, by the memory
model in `plan` and by whatever predicts a run before it starts.

A configuration is written as plain JSON (`to_json`, `from_json`), which a manifest carries and a rank reads; the ranks
themselves are no part of it: how many there are is known at the start of each attempt. Defaults are those of a
fine-tune on one machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Method(StrEnum):
    """Which weights are trained."""

    FULL = "full"
    LORA = "lora"
    """Two small matrices beside each chosen linear layer (https://arxiv.org/abs/2106.09685)."""
    QLORA = "qlora"
    """LoRA over a base of 4 bits (https://arxiv.org/abs/2305.14314)."""


class Sharding(StrEnum):
    """How parameters, gradients and optimizer states are divided, by the names FSDP's users know."""

    NO_SHARD = "NO_SHARD"
    """Everything on each GPU, as DDP does."""
    SHARD_GRAD_OP = "SHARD_GRAD_OP"
    """All divided outside of the computation; all parameters gathered from the forward to the end of the backward.
    FSDP2: reshard_after_forward=False."""
    FULL_SHARD = "FULL_SHARD"
    """All divided; one unit gathered at a time, and the next one with it. FSDP2's default."""
    HYBRID_SHARD = "HYBRID_SHARD"
    """FULL_SHARD inside a group of ranks (a node), replicated over the groups."""
    HYBRID_SHARD_ZERO2 = "_HYBRID_SHARD_ZERO2"
    """SHARD_GRAD_OP inside a group of ranks, replicated over the groups."""


class Dtype(StrEnum):
    """A number's type, by torch's name."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"

    @property
    def num_bytes(self) -> int:
        return 4 if self is Dtype.FLOAT32 else 2


class Checkpointing(StrEnum):
    """Which activations of the forward are kept for the backward; the others are computed anew."""

    NONE = "none"
    SELECTIVE = "selective"
    """Matrix products and attention are kept, the cheap operations between them computed anew."""
    ATTENTION = "attention"
    """Each block's input and attention's result: little more than full, without its dearest operation."""
    FULL = "full"
    """Each block's input alone is kept."""


class Schedule(StrEnum):
    """How the learning rate goes on after its warm-up."""

    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"
    WSD = "wsd"
    """Stays, then falls over the last part (https://arxiv.org/abs/2404.06395)."""


class OnBadLoss(StrEnum):
    """What a loss does that is not finite or that spikes."""

    STOP = "stop"
    """The run fails, and what led there is kept."""
    SKIP = "skip"
    """That step changes no weight; too many in a row fail."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Rows to train on, with their share of the blend."""

    uri: str
    """`hf://owner/name[:revision]` of a dataset, or a file or folder of .jsonl, .parquet or .txt. A .txt file is one
    row; one beyond 1 MiB is a row for each part of it."""
    weight: float = 1.0
    """Relative share of this source's tokens among all; above 0."""
    split: str = "train"
    subset: str = ""
    """Of a dataset that has several: one by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """What is read, and how rows become sequences."""

    sources: tuple[Source, ...] = ()
    eval_sources: tuple[Source, ...] = ()
    """Held out. Empty with `eval_fraction` 0 is no evaluation."""
    eval_fraction: float = 0.0
    """Share of the rows that is held out where no eval source is named."""
    text_field: str = "text"
    messages_field: str = "messages"
    """Rows with this field are conversations: the model's chat template, and loss on the assistant's turns alone."""
    seq_len: int = 2048
    """Tokens of one sequence."""
    is_packed: bool = True
    """Whole documents side by side in one sequence, without attention between them. Otherwise one document each."""
    is_long_row_split: bool = True
    """A document longer than a sequence goes on in the next one. Otherwise it is cut, and counted."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Lora:
    """The adapters of `Method.LORA` and `Method.QLORA`, by PEFT's names."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerSettings:
    """AdamW (https://arxiv.org/abs/1711.05101) and its schedule."""

    learning_rate: float = 2e-5
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    """Of matrices; vectors (norms, biases) decay with 0 unless `is_vector_decayed`."""
    is_vector_decayed: bool = False
    """Whether vectors decay as matrices do: torchtitan's recipe, and torch's where all weights are one group."""
    state_dtype: Dtype | None = None
    """Of the two moments; None is the parameters' own."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global norm; 0 does not clip."""
    schedule: Schedule = Schedule.COSINE
    warmup_steps: int = 0
    decay_fraction: float = 0.1
    """Of WSD: the last share of the steps, over which it falls."""
    min_lr_fraction: float = 0.0
    """The rate at the end, as a share of the peak."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compute:
    """How a step is computed."""

    param_dtype: Dtype = Dtype.FLOAT32
    """In which parameters are kept."""
    compute_dtype: Dtype = Dtype.BFLOAT16
    reduce_dtype: Dtype = Dtype.FLOAT32
    """In which gradients are summed over the ranks."""
    sharding: Sharding = Sharding.FULL_SHARD
    shard_group_size: int = 0
    """Of the hybrid strategies: ranks of one group; 0 is those of one machine."""
    is_cpu_offload: bool = False
    """Parameters, gradients and states in host memory. Of two GPUs or more: one rank has no FSDP."""
    checkpointing: Checkpointing = Checkpointing.SELECTIVE
    num_whole_blocks: int | None = None
    """Blocks at the end of the model that keep all their activations whatever `checkpointing` says; None is as many as
    cost no memory, since all gradients will be where they are. More trade what is left of the memory for speed."""
    is_compiled: bool = True
    """torch.compile, block by block."""
    is_float8: bool = False
    """Linear layers in float8 through torchao, where the GPU has it."""
    loss_chunks: int = 8
    """The head and the loss are computed over so many parts of the tokens, one after the other."""
    is_deterministic: bool = False
    """The same bits in each run on the same ranks; slower."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointPolicy:
    """When a checkpoint is taken, and which stay."""

    every_steps: int = 500
    """0 takes one at the end, and those of `watch.is_best_exported`."""
    keep_last: int = 2
    keep_every_steps: int = 0
    """Those at multiples of this stay for good; 0 keeps none so."""
    is_async: bool = True
    """Staged in host memory and written beside the next steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Watch:
    """What is looked at while it runs."""

    log_every_steps: int = 10
    eval_every_steps: int = 0
    """0 evaluates at the end alone."""
    early_stop_patience: int = 0
    """Evaluations in a row without a better loss after which the run ends; 0 never does."""
    is_best_exported: bool | None = None
    """The exported model is that of the best evaluation, not of the last step. Its checkpoint is taken there and then,
    and stays beside those of the policy until a better one is there. None is so where `early_stop_patience` is said."""
    sample_prompts: tuple[str, ...] = ()
    """Continued at each evaluation, to be read."""
    on_bad_loss: OnBadLoss = OnBadLoss.STOP
    spike_factor: float = 0.0
    """A loss above this times the running median is bad, as one that is not finite always is; 0 looks for none."""
    max_skipped_in_a_row: int = 10
    hang_timeout_s: float = 600.0
    """A step that takes longer is a hang: stacks are written and the slow rank is named. 0 does not watch."""
    profile_steps: tuple[int, int] | None = None
    """First and last step of a profiler window."""

    @property
    def exports_best(self) -> bool:
        """`is_best_exported` as it is meant."""
        return self.early_stop_patience > 0 if self.is_best_exported is None else self.is_best_exported


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """A training run: one model, its data, its steps, and where the result goes."""

    name: str
    """metadata.name: the run's name."""
    model: str
    """As `ironloom.workload` names models: `hf://…`, a folder, the shorthand of the default model."""
    output: str
    """Folder that gets checkpoints/, logs/ and, at the end, the model in Hugging Face's form."""
    method: Method = Method.FULL
    is_from_scratch: bool = False
    """The model's shape with new weights: pre-training."""
    data: Data = field(default_factory=Data)
    lora: Lora = field(default_factory=Lora)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    compute: Compute = field(default_factory=Compute)
    checkpoint: CheckpointPolicy = field(default_factory=CheckpointPolicy)
    watch: Watch = field(default_factory=Watch)
    num_steps: int = 0
    """Optimizer steps; 0 takes `num_epochs`."""
    num_epochs: float = 1.0
    global_batch_size: int = 8
    """Sequences of one optimizer step, over all ranks and accumulated micro-batches."""
    micro_batch_size: int = 1
    """Sequences of one rank at a time."""
    seed: int = 0
    max_restarts: int = 3
    """Attempts after the first, each after a longer wait; progress between two failures starts the count anew."""
    is_elastic: bool = False
    """May go on with fewer ranks where some are gone."""
