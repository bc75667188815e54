"""Whether a language model reads from left to right, found by trying: no flag of a configuration says it for all.

Two inputs differ in their last token alone. A model that reads from left to right gives the same logits at all places
before it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

TOKENS = 8
LEAK = {torch.float32: 1e-3, torch.bfloat16: 1e-2}
"""The change at earlier places, relative to the change at the last one, above which the model reads both ways. What
rounding does is far below, even in models that do not compute place by place."""


@torch.no_grad()
def reads_left_to_right(model: Any) -> bool:
    """Whether it does. A model that cannot be tried in its precision is tried in fp32; one that cannot be tried on a
    CPU at all is judged by its configuration."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    one = torch.randint(0, vocabulary, (1, TOKENS), generator=generator)
    other = one.clone()
    other[0, -1] = (one[0, -1] + vocabulary // 2) % vocabulary
    try:
        before, after = (model(input_ids=tokens, use_cache=False).logits.float() for tokens in (one, other))
    except Exception:  # whatever a model's own code raises for so short a text, or without a GPU
        if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
            return reads_left_to_right(copy.deepcopy(model).float())
        return _is_said_to(model.config)
    change = (after - before).abs()
    earlier, last = (part[part.isfinite()] for part in (change[:, :-1], change[:, -1]))
    if not (len(earlier) and len(last)):  # the weights hold values that are not finite
        return _is_said_to(model.config)
    limit = LEAK.get(model.dtype, LEAK[torch.bfloat16])
    return bool(earlier.max() <= limit * last.max())


def _is_said_to(config: Any) -> bool:
    """A configuration that knows of decoders, and is none, reads both ways."""
    return getattr(config, "is_decoder", None) is not False or bool(config.is_encoder_decoder)
