"""Creates the model that the training starts with: the base model with a head for the data's labels.

If the base model's head has a row for one of the labels, the row is kept. What the base model lacks is initialised with
the run's seed.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel

from finetune_trainer.contract import RunConfig
from finetune_trainer.data.rows import Rows
from finetune_trainer.errors import InvalidError
from finetune_trainer.model.base import complaint
from finetune_trainer.model.labels import are_generic, carry_over, head_parameters, rows_of, set_labels
from finetune_trainer.model.trust import has_safetensors
from finetune_trainer.tasks import task_of

NUMBERED = re.compile(r"\.\d+\.")
"""A pattern in the names of parameters that belong to one of several similar layers."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def start_model(
    config: RunConfig, base: Path, model_config: PreTrainedConfig, rows: Rows, base_labels: tuple[str, ...]
) -> tuple[PreTrainedModel, set[str], list[str]]:
    """Return the start model, the names of its new parameters, and the labels that the base model has too.

    `base_labels` are the labels of the base model's head, in the order of its rows. Raises InvalidError if the weights
    cannot be loaded or do not match the configuration.
    """
    own_config = copy.deepcopy(model_config)
    if rows.labels is not None:
        set_labels(model_config, rows.labels)
        model_config.problem_type = "single_label_classification"
    torch.manual_seed(config.training.seed)
    try:
        model, info = _loaded(config, base, model_config)
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError, UnpicklingError) as error:
        uri = config.model.uri
        raise InvalidError(
            f"model.uri: {uri} cannot be loaded ({complaint(error, base, uri)}); give a folder with all its weights"
        ) from None
    parameters = {name for name, _ in model.named_parameters()}
    new = parameters & (set(info["missing_keys"]) | {key[0] for key in info["mismatched_keys"]})
    body = {name for name in parameters if name.startswith(f"{model.base_model_prefix}.")}
    if body and body <= new:
        raise InvalidError(
            f"model.uri: the weights of {config.model.uri} have none of the names that its config.json asks for; "
            "give a folder whose weights and config.json belong together"
        )
    # A head or a pooler may be new. A new layer between others would be noise that the whole input passes through.
    if lost := sorted(name for name in body & new if NUMBERED.search(name)):
        raise InvalidError(
            f"model.uri: the weights of {config.model.uri} lack {lost[0]} or have it in another shape, and so "
            f"{len(lost)} parameters that config.json asks for; give a folder whose weights and config.json belong "
            "together"
        )
    if rows.labels is None or not base_labels:
        return model, new, []
    return model, *_with_known_labels(config, base, own_config, model, new, rows.labels, base_labels)


def _loaded(config: RunConfig, base: Path, model_config: PreTrainedConfig) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load the base model with this configuration, and return it with transformers' report on its parameters."""
    model, info = task_of(config.task).auto_class.from_pretrained(
        base,
        config=model_config,
        dtype=DTYPES[config.training.precision],
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        trust_remote_code=config.allow_remote_code,
        use_safetensors=has_safetensors(base) or not config.allow_pickle_weights,
        weights_only=True,
    )
    return model, info


def _with_known_labels(
    config: RunConfig,
    base: Path,
    own_config: PreTrainedConfig,
    model: PreTrainedModel,
    new: set[str],
    labels: tuple[str, ...],
    base_labels: tuple[str, ...],
) -> tuple[set[str], list[str]]:
    """Copy the head's rows of labels that the base model has. Returns the new parameters and these labels.

    If both have the same labels, they have the base model's order and the loaded head is correct. A head with the same
    number of rows, but for other labels, was loaded unchanged, so each of its rows must be moved to its label.
    """
    known = rows_of(labels, base_labels)
    if not known and (len(labels) != len(base_labels) or are_generic(base_labels)):
        return new, []  # The head is new already, or its rows have no meaningful names.
    auto_class = task_of(config.task).auto_class
    heads = head_parameters(auto_class, model.config, config.allow_remote_code)
    if [known.get(label) for label in labels] == list(range(len(base_labels))):
        return new, [] if heads & new else list(labels)
    own, info = _loaded(config, base, own_config)
    if not heads or heads & ({*info["missing_keys"]} | {key[0] for key in info["mismatched_keys"]}):
        return new, []  # The base model has no head.
    torch.manual_seed(config.training.seed)
    carry_over(model, own, heads, {labels.index(label): row for label, row in known.items()})
    return new | heads, [label for label in labels if label in known]
