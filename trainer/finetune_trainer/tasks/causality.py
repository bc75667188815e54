"""Tests whether a language model reads from left to right, since no field of the configurations reliably states it.

Two inputs differ only in their last token. A model that reads from left to right returns the same logits for both at
all positions before the last one.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

TOKENS = 8
LEAK = {torch.float32: 1e-3, torch.bfloat16: 1e-2}
"""The limit of the change at earlier positions, relative to the last position, above which a model reads both ways.

Rounding errors are far below it, even in models that do not compute each position independently.
"""


@torch.no_grad()
def reads_left_to_right(model: Any) -> bool:
    """Return whether the model reads from left to right.

    If the model cannot run in its own precision, it is tested in fp32; if it cannot run on a CPU at all, its
    configuration decides.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    one = torch.randint(0, vocabulary, (1, TOKENS), generator=generator)
    other = one.clone()
    other[0, -1] = (one[0, -1] + vocabulary // 2) % vocabulary
    try:
        before, after = (model(input_ids=tokens, use_cache=False).logits.float() for tokens in (one, other))
    except Exception:  # The model's code may raise anything for such a short text, or without a GPU.
        if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
            return reads_left_to_right(copy.deepcopy(model).float())
        return _is_said_to(model.config)
    change = (after - before).abs()
    earlier, last = (part[part.isfinite()] for part in (change[:, :-1], change[:, -1]))
    if not (len(earlier) and len(last)):  # The weights contain values that are not finite.
        return _is_said_to(model.config)
    limit = LEAK.get(model.dtype, LEAK[torch.bfloat16])
    return bool(earlier.max() <= limit * last.max())


def _is_said_to(config: Any) -> bool:
    """Return whether the configuration describes a model that reads from left to right.

    A configuration with `is_decoder` false, of a model that is not an encoder-decoder, reads both ways.
    """
    return getattr(config, "is_decoder", None) is not False or bool(config.is_encoder_decoder)
