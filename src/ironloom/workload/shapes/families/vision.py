"""The towers that see, of models whose text part is one of the other families.

Source: transformers 5.19, models/siglip and models/gemma3 (modeling_*.py).
"""

from __future__ import annotations

from collections.abc import Iterator

from ironloom.workload.shapes.draft import Draft
from ironloom.workload.shapes.families.gated import MAKES, decoder
from ironloom.workload.shapes.fields import MAX_LAYERS, Fields
from ironloom.workload.shapes.model import Part, Weight
from ironloom.workload.shapes.parts import plain


def gemma3(fields: Fields) -> Draft:
    """Gemma 3 from 4B on: the text model, a SigLIP tower, and the projection between them."""
    # Whether the head is the embedding is the outer config's to say.
    text = {**fields.below("text_config").raw, "tie_word_embeddings": fields.flag("tie_word_embeddings", True)}
    draft = decoder(Fields(text, fields.name), MAKES["gemma3_text"])
    vision = fields.below("vision_config")
    width = vision.integer("hidden_size", 768)
    draft.add(_siglip(vision, width))
    draft.add(
        [
            plain("multi_modal_projector.mm_soft_emb_norm.weight", (width,), Part.VISION),
            plain("multi_modal_projector.mm_input_projection_weight", (width, draft.hidden_size), Part.VISION),
        ]
    )
    draft.notes.append("its vision tower is counted whole on each GPU")
    return draft


def _siglip(vision: Fields, width: int) -> Iterator[Weight]:
    channels, patch = vision.integer("num_channels", 3), vision.integer("patch_size", 16)
    num_patches = (vision.integer("image_size", 224) // patch) ** 2
    inner = vision.integer("intermediate_size", 3072)
    prefix = "vision_tower.vision_model"
    yield plain(f"{prefix}.embeddings.patch_embedding.weight", (width, channels, patch, patch), Part.VISION)
    yield plain(f"{prefix}.embeddings.patch_embedding.bias", (width,), Part.VISION)
    yield plain(f"{prefix}.embeddings.position_embedding.weight", (num_patches, width), Part.VISION)
    for layer in range(vision.integer("num_hidden_layers", 12, most=MAX_LAYERS)):
        below = f"{prefix}.encoder.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield plain(f"{below}.self_attn.{name}.weight", (width, width), Part.VISION)
            yield plain(f"{below}.self_attn.{name}.bias", (width,), Part.VISION)
        for name in ("layer_norm1", "layer_norm2"):
            yield plain(f"{below}.{name}.weight", (width,), Part.VISION)
            yield plain(f"{below}.{name}.bias", (width,), Part.VISION)
        for name, rows, columns in (("fc1", inner, width), ("fc2", width, inner)):
            yield plain(f"{below}.mlp.{name}.weight", (rows, columns), Part.VISION)
            yield plain(f"{below}.mlp.{name}.bias", (rows,), Part.VISION)
    yield plain(f"{prefix}.post_layernorm.weight", (width,), Part.VISION)
    yield plain(f"{prefix}.post_layernorm.bias", (width,), Part.VISION)
