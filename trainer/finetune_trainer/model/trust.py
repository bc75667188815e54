"""Decides whether a model folder may be loaded, if loading it would run its author's code.

Two things would run code: Python files that `auto_map` names in one of the folder's configurations, and pickled
weights. Both are refused here, before a library opens any file, unless the operator's configuration allows them. An
allowed pickle is still read with `weights_only`, which loads tensors and calls nothing. An adapter is always refused,
because its configuration names another model, which transformers would load unchecked in place of the folder.
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
    """Raise InvalidError if the base model contains code or a pickle that is not allowed, or is an adapter."""
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
    """Return the first code that a configuration of the folder names, as `file: reference`, or None."""
    for path in sorted(folder.glob("*config.json")):
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            continue  # Either nothing loads this file, or loading it raises an error later.
        if (reference := _reference(content)) is not None:
            return f"{path.name}: {reference}"[:200]
    return None


def has_safetensors(folder: Path) -> bool:
    """Return whether the folder has weights that are no pickle."""
    return any(folder.glob(f"*{SAFE_SUFFIX}"))


def _reference(content: Any) -> str | None:
    """Return the value of `auto_map` at any depth, since configurations may be nested."""
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
    """Return the name of a file that would be unpickled, or None.

    It is a pickle in a folder without safetensors, or a file that an index of safetensors names.
    """
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
