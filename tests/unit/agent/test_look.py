"""The program that reads the termination message of rank 0's pod from the workspace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.clusters import RESULT
from unit.agent.pod import run_config

from finetune_trainer import contract
from finetune_trainer.agent.look import look
from finetune_trainer.contract import RunConfig, TerminationMessage, last_message_file


@pytest.fixture
def environment(tmp_path: Path, config: RunConfig) -> dict[str, str]:
    run_json = tmp_path / "run.json"
    run_json.write_text(config.to_json())
    (tmp_path / "workspace" / config.folder / "attempts" / "3").mkdir(parents=True)
    return {
        contract.ENV_RUN_CONFIG: str(run_json),
        contract.ENV_WORKSPACE: str(tmp_path / "workspace"),
        contract.ENV_CLAIMS: str(tmp_path / "claims"),
        contract.ENV_SCRATCH: str(tmp_path / "scratch"),
        contract.ENV_TERMINATION_LOG: str(tmp_path / "termination-log"),
    }


def message(config: RunConfig, **changes: Any) -> TerminationMessage:
    fields = {"pod_uid": "u", "index": 0, "attempt": 3, "nonce": config.nonce, "exit_code": 0, "result": RESULT}
    return TerminationMessage(**{**fields, **changes})


def record(environment: dict[str, str], config: RunConfig) -> Path:
    return Path(environment[contract.ENV_WORKSPACE]) / config.folder / last_message_file(3, 0)


def test_the_message_becomes_the_last_message_of_the_reading_pod(environment: dict[str, str]) -> None:
    config = run_config()
    left = message(config, log=tuple("x" * 400 for _ in range(40)))
    record(environment, config).write_text(left.to_json())
    assert look(environment) == 0
    text = Path(environment[contract.ENV_TERMINATION_LOG]).read_text()
    assert len(text.encode()) <= contract.MAX_TERMINATION_MESSAGE_BYTES
    assert TerminationMessage.model_validate_json(text).result == RESULT


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read: No such file or directory"),
        ("{", "is not a pod's last message"),
        (message(run_config(), nonce="another").to_json(), "is not of this attempt"),
    ],
)
def test_what_is_no_message_of_the_attempt_is_left_alone(
    environment: dict[str, str], caplog: pytest.LogCaptureFixture, content: str | None, sentence: str
) -> None:
    if content is not None:
        record(environment, run_config()).write_text(content)
    assert look(environment) == 1
    assert sentence in caplog.text
    assert not Path(environment[contract.ENV_TERMINATION_LOG]).exists()
