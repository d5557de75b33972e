"""Compiles grammars aside from the running batch.

openvino-genai compiles a request's grammar inside the step that samples its first token: a bad grammar throws out of
the step of all sequences, and a big one halts them all while it compiles. So each new grammar first goes through a
pipeline of its own: a model of one constant, on the same tokenizer. The tokenizer owns the grammar compiler and its
cache, so what was compiled here is ready there.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any

from ironloom.errors import RequestError
from ironloom.serve.engines.programs.generation import Grammar, GrammarKind

_MAX_KNOWN = 1024


class GrammarChecker:
    """Call `check` from one worker thread only."""

    def __init__(self, tokenizer: Any, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._pipeline: Any = None
        self._known: OrderedDict[tuple[GrammarKind, str], None] = OrderedDict()

    def knows(self, grammar: Grammar) -> bool:
        """True when it was compiled before."""
        return (grammar.kind, grammar.text) in self._known

    def check(self, grammar: Grammar) -> None:
        """Compile it. Raises RequestError (400) with the compiler's reason."""
        import openvino_genai

        if self._pipeline is None:
            self._pipeline = _constant_pipeline(self._tokenizer, self._vocab_size)
        config = openvino_genai.GenerationConfig(max_new_tokens=1, apply_chat_template=False)
        config.structured_output_config = structured_output(grammar)
        try:
            self._pipeline.generate("a", config)
        except RuntimeError as error:
            why = re.sub(r"^\[[\d:]+\] \S+?:\d+: ", "", str(error).strip().splitlines()[0])
            message = f"{grammar.param} cannot be enforced: {why}"
            raise RequestError(400, message, param=grammar.param, code="invalid_grammar") from error
        self._known[grammar.kind, grammar.text] = None
        while len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)


def structured_output(grammar: Grammar) -> Any:
    """openvino_genai.StructuredOutputConfig."""
    import openvino_genai

    names = {GrammarKind.JSON_SCHEMA: "json_schema", GrammarKind.REGEX: "regex", GrammarKind.EBNF: "grammar"}
    return openvino_genai.StructuredOutputConfig(**{names[grammar.kind]: grammar.text})


def _constant_pipeline(tokenizer: Any, vocab_size: int) -> Any:
    """A language model whose logits are all zero."""
    import numpy as np
    import openvino
    import openvino_genai
    from openvino import opset13 as ops

    inputs = {
        "input_ids": ops.parameter([-1, -1], np.int64),
        "attention_mask": ops.parameter([-1, -1], np.int64),
        "position_ids": ops.parameter([-1, -1], np.int64),
        "beam_idx": ops.parameter([-1], np.int32),
    }
    for name, node in inputs.items():
        node.output(0).set_names({name})
    width = ops.constant(np.array([vocab_size], np.int64))
    shape = ops.concat([ops.shape_of(inputs["input_ids"]), width], 0)
    sizes = ops.concat([ops.shape_of(node) for name, node in inputs.items() if name != "input_ids"], 0)
    zero = ops.multiply(ops.convert(ops.reduce_sum(sizes, np.array([0], np.int64)), "f32"), np.float32(0))
    logits = ops.broadcast(zero, shape)
    logits.output(0).set_names({"logits"})
    model = openvino.Model([ops.result(logits)], list(inputs.values()), "constant")
    xml, weights = _serialized(model)
    return openvino_genai.LLMPipeline(xml, weights, tokenizer, "CPU", ATTENTION_BACKEND="SDPA")


def _serialized(model: Any) -> tuple[str, Any]:
    import tempfile
    from pathlib import Path

    import numpy as np
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        xml, weights = Path(folder) / "m.xml", Path(folder) / "m.bin"
        openvino.serialize(model, xml, weights)
        return xml.read_text(), openvino.Tensor(np.fromfile(weights, np.uint8))
