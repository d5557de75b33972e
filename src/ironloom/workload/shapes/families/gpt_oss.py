"""gpt-oss: every other layer sees a window, experts in stacked tensors, biases everywhere, a sink a head.

Source: transformers 5.19, models/gpt_oss/modeling_gpt_oss.py.
"""

from __future__ import annotations

from ironloom.workload.shapes.draft import Draft
from ironloom.workload.shapes.families.gated import Make, frame
from ironloom.workload.shapes.fields import MAX_EXPERTS, Fields
from ironloom.workload.shapes.model import Split, Weight
from ironloom.workload.shapes.parts import router

MAKE = Make(
    bias_default=True,
    head_dim=64,
    num_heads=64,
    num_kv_heads=8,
    vocab=201_088,
    every_nth_full=2,
    window=128,
    max_position=131_072,
)


def gpt_oss(fields: Fields) -> Draft:
    draft = frame(fields, MAKE)
    layers, hidden = draft.layers, draft.hidden_size
    num_experts = fields.integer("num_local_experts", 128, most=MAX_EXPERTS)
    width = fields.integer("intermediate_size", 2880)
    prefix = "model.layers.{layer}.mlp"
    draft.add(
        [Weight(name="model.layers.{layer}.self_attn.sinks", shape=(draft.num_heads,), split=Split.ROWS, layers=layers)]
    )
    draft.add(router(f"{prefix}.router", num_experts, hidden, layers, bias=True))
    # Stacked: [expert, inputs, outputs]. The first product is divided by its outputs, the second by its inputs.
    for name, shape, split, is_linear in (
        ("gate_up_proj", (num_experts, hidden, 2 * width), Split.ROWS, True),
        ("gate_up_proj_bias", (num_experts, 2 * width), Split.ROWS, False),
        ("down_proj", (num_experts, width, hidden), Split.COLUMNS, True),
        ("down_proj_bias", (num_experts, hidden), Split.WHOLE, False),
    ):
        draft.add(
            [
                Weight(
                    name=f"{prefix}.experts.{name}",
                    shape=shape,
                    layers=layers,
                    num_experts=num_experts,
                    split=split,
                    is_linear=is_linear,
                    is_stacked=True,
                )
            ]
        )
    draft.set_experts(num_experts, fields.integer("num_experts_per_tok", 4, most=MAX_EXPERTS), width)
    return draft
