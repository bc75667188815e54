"""The architectures for which a configuration cannot define a small base model, each with the reason."""

from __future__ import annotations

LEFT_OUT: dict[str, str] = {
    "dinat": "needs the library natten",
    "gemma3n": "needs the library timm",
    "gemma4_assistant": "proposes tokens for another model, whose hidden states it reads",
    "gemma4_unified_assistant": "proposes tokens for another model, whose hidden states it reads",
    "layoutlmv2": "needs the library detectron2",
    "musicgen": "transformers builds its language model only from the configuration of its decoder",
    "musicgen_melody": "transformers builds its language model only from the configuration of its decoder",
    "timm_wrapper": "needs the library timm",
}
