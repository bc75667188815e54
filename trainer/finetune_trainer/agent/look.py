"""Copies the termination message of rank 0's pod from the workspace to this pod's termination log.

    python3 -m finetune_trainer.agent.look

The operator starts it in a small pod without GPUs when every pod of an attempt has succeeded and rank 0's pod was
deleted before its message was read. It needs the attempt's run.json and the workspace, which it does not change.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from finetune_trainer import contract
from finetune_trainer.agent.startup import read_run_config
from finetune_trainer.contract import RunConfig, TerminationMessage, last_message_file
from finetune_trainer.errors import InvalidError
from finetune_trainer.pod.paths import Paths

logger = logging.getLogger("look")


def last_message(folder: Path, config: RunConfig) -> TerminationMessage:
    """Read the termination message of rank 0's pod in that attempt from the run's folder. Raises InvalidError."""
    path = folder / last_message_file(config.attempt, 0)
    try:
        message = TerminationMessage.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidError(f"The record {path} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        raise InvalidError(f"The record {path} is not a pod's last message: {error.error_count()} faults.") from error
    if message.nonce != config.nonce:
        raise InvalidError(f"The record {path} is not of this attempt.")
    return message


def look(environment: Mapping[str, str]) -> int:
    """Copy the message to this pod's termination log and return the exit code."""
    try:
        config = read_run_config(Path(environment[contract.ENV_RUN_CONFIG]))
        message = last_message(Paths.from_environment(environment).run(config), config)
    except InvalidError as error:
        logger.error("%s", error)
        return 1
    Path(environment[contract.ENV_TERMINATION_LOG]).write_text(message.fit(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(name)s: %(message)s")
    sys.exit(look(os.environ))
