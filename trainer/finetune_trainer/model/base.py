"""Locates the base model's files and checks whether the model fits the task.

The weights are not read here.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from finetune_trainer.contract import TASKS, RunConfig, Source
from finetune_trainer.errors import InvalidError
from finetune_trainer.model.refusal import first_line
from finetune_trainer.model.trust import CODE_KEY
from finetune_trainer.pod.paths import Paths
from finetune_trainer.tasks import Task

UNUSED_FILES = ["*.h5", "*.msgpack", "*.onnx", "*.ot", "*.tflite", "*.gguf", "onnx/*", "openvino/*", "original/*"]
"""The files of hub repositories that are not needed: weights of other frameworks."""
WEIGHT_FILES = ["*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt"]


def base_folder(model: Source, paths: Paths, weights: bool) -> Path:
    """Return the folder with the model's files, downloading a model from the hub with the token in HF_TOKEN, if set.

    `weights` is whether the weights are downloaded too, or only configuration and tokenizer. Raises InvalidError if the
    model does not exist.
    """
    folder = paths.local(model.uri)
    if folder is not None:
        if not folder.is_dir():
            raise InvalidError(f"model.uri: {model.uri} is not a folder; give one in Hugging Face layout")
        return folder
    repository = model.uri.removeprefix("hf://")
    unused = UNUSED_FILES if weights else [*UNUSED_FILES, *WEIGHT_FILES]
    try:
        return Path(snapshot_download(repository, revision=model.revision, ignore_patterns=unused))
    except RevisionNotFoundError:
        raise InvalidError(f"model.revision: {model.uri} has no revision {model.revision}; correct it") from None
    except RepositoryNotFoundError:
        raise InvalidError(
            f"model.uri: {model.uri} does not exist on the hub or is not yours to read; "
            "correct it, or put a token in the secret that model.secretName names"
        ) from None


def base_config(config: RunConfig, task: Task, base: Path) -> PreTrainedConfig:
    """Return the model's configuration. Raises InvalidError if it cannot be read or the model cannot do the task."""
    uri = config.model.uri
    if not (base / "config.json").is_file():
        raise InvalidError(f"model.uri: {uri} has no config.json; give a folder in Hugging Face layout")
    try:
        model_config: PreTrainedConfig = AutoConfig.from_pretrained(base, trust_remote_code=config.allow_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InvalidError(
            f"model.uri: config.json of {uri} cannot be used ({complaint(error, base, uri)}); save the model again"
        ) from None
    # Remote code, if it is allowed, may define a model type of its own.
    brought = config.allow_remote_code and task.auto_class.__name__ in getattr(model_config, CODE_KEY, {})
    if not (brought or model_config.model_type in task.model_types):
        raise misfit(config, model_config)
    return model_config


def processor_of(config: RunConfig, task: Task, base: Path) -> Any:
    """Return the model's tokenizer or image processor. Raises InvalidError if it has none."""
    try:
        return task.load_processor(base, config.allow_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        kind = "image processor" if TASKS[config.task].reads == "pictures" else "tokenizer"
        uri = config.model.uri
        raise InvalidError(
            f"model.uri: {uri} has no usable {kind} ({complaint(error, base, uri)}); save it beside the model"
        ) from None


def shape_of(config: RunConfig, task: Task, model_config: PreTrainedConfig) -> PreTrainedModel | None:
    """Build the model without values in its weights. Returns None if it cannot be built so."""
    try:
        with torch.device("meta"):
            shape: PreTrainedModel = task.auto_class.from_config(
                copy.deepcopy(model_config), trust_remote_code=config.allow_remote_code
            )
            return shape
    except Exception:  # The model may compute with its weights while it is built.
        return None


def misfit(config: RunConfig, model_config: PreTrainedConfig) -> InvalidError:
    """Return the error for a model that cannot do the task."""
    return InvalidError(
        f"task: {config.task} does not fit model.uri {config.model.uri}, which is of type {model_config.model_type}; "
        "choose another task or another model"
    )


def refuse_part_without_class(config: RunConfig, task: Task, whole: PreTrainedConfig, loaded: PreTrainedConfig) -> None:
    """Raise InvalidError if only a part of the model was loaded that cannot be loaded again once it is saved alone.

    Such a part is, for example, the text part of a model that also reads images. `whole` is the configuration of the
    base model, `loaded` that of the model that was loaded from it.
    """
    if loaded.model_type in {whole.model_type, *task.model_types}:
        return
    raise InvalidError(
        f"model.uri: {config.model.uri} is of type {whole.model_type}, of which task {config.task} trains the part "
        f"{loaded.model_type}, and transformers cannot load that part again when it is saved alone; use another model"
    )


def complaint(error: Exception, base: Path, uri: str) -> str:
    """Return the first line of a library's message, with the user's URI instead of the model's folder."""
    return first_line(error).replace(str(base), uri.rstrip("/"))
