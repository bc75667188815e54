"""What of a model folder would run its author's code, and whether it may.

Two things would: Python files that `auto_map` names in one of the folder's configurations, and weights that are a
pickle. Both are refused here, before a library opens anything, unless the operator's configuration allows them. A
pickle that is allowed is still read with `weights_only`, which takes tensors out of it and calls nothing. An adapter's
configuration names another model that transformers would load in the folder's place, unseen: it is refused always.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetune_trainer.contract import RunConfig
from finetune_trainer.errors import InvalidError

CODE_KEY = "auto_map"
SAFE_SUFFIX = ".safetensors"
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
INDEX_SUFFIX = ".index.json"
ADAPTER_FILE = "adapter_config.json"


def check_model(config: RunConfig, base: Path) -> None:
    """Raises InvalidError when the base model brings code or a pickle that may not be used, or is an adapter."""
    uri = config.model.uri
    if (base / ADAPTER_FILE).exists():
        raise InvalidError(
            f"model.uri: {uri} holds an adapter ({ADAPTER_FILE}), which trains with the model that it names; "
            "merge it into that model and give the folder of the merged one"
        )
    if not config.allow_remote_code and (code := remote_code(base)):
        raise InvalidError(
            f"model.uri: {uri} brings code of its own ({code}), and this operator runs none; give a model that "
            "transformers knows, or set allowRemoteCode in the operator's configuration (the chart's trust.remoteCode)"
        )
    if not config.allow_pickle_weights and (pickle := _pickle(base)):
        raise InvalidError(
            f"model.uri: {uri} has its weights as a pickle ({pickle}), which may hold code, and this operator reads "
            "none; save it as safetensors, or set allowPickleWeights in the operator's configuration (the chart's "
            "trust.pickleWeights)"
        )


def remote_code(folder: Path) -> str | None:
    """The first code that a configuration of the folder names, as `file: reference`; None without any."""
    for path in sorted(folder.glob("*config.json")):
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            continue  # nothing loads it, or it is told of when something tries
        if (reference := _reference(content)) is not None:
            return f"{path.name}: {reference}"[:200]
    return None


def has_safetensors(folder: Path) -> bool:
    """Whether weights are there that need no pickle."""
    return any(folder.glob(f"*{SAFE_SUFFIX}"))


def _reference(content: Any) -> str | None:
    """What stands under `auto_map`, at whatever depth: configurations hold others."""
    left = [content]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            if part.get(CODE_KEY):
                return json.dumps(part[CODE_KEY])
            left += part.values()
        elif isinstance(part, list):
            left += part
    return None


def _pickle(folder: Path) -> str | None:
    """A file that would be unpickled: any where there is nothing else, or one that an index names among others."""
    for path in sorted(folder.glob(f"*{SAFE_SUFFIX}{INDEX_SUFFIX}")):
        try:
            names = json.loads(path.read_bytes())["weight_map"].values()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if named := next((str(name) for name in names if not str(name).endswith(SAFE_SUFFIX)), None):
            return named[:200]
    if has_safetensors(folder):
        return None
    return next((path.name for path in sorted(folder.iterdir()) if path.suffix in PICKLE_SUFFIXES), None)
