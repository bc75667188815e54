"""What both sides share: reading the requests and answering them."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from gpu_day.device import free
from gpu_day.step import sentence_of


def serve(train: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer every line of stdin until it ends. Only answers go to stdout; the output of libraries goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            answer = train(json.loads(line))
        except Exception as error:
            traceback.print_exc()
            answer = {"failed": sentence_of(error)}
        free()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def matrix_parameters(model: Any) -> int:
    """Return the number of all parameters except those of the embedding."""
    embedding = model.get_input_embeddings()
    return sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in embedding.parameters())
