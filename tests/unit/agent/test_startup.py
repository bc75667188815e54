"""What a pod checks before it may train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer import contract
from finetune_trainer.agent.startup import Settings, check_workspace, read_run_config
from finetune_trainer.contract import RunConfig, run_config
from finetune_trainer.errors import InvalidError

ENVIRONMENT = {
    contract.ENV_RUN_CONFIG: "/etc/finetune/run.json",
    contract.ENV_WORKSPACE: "/workspace",
    contract.ENV_CLAIMS: "/claims",
    contract.ENV_SCRATCH: "/scratch",
    contract.ENV_TERMINATION_LOG: "/dev/termination-log",
    contract.ENV_RENDEZVOUS: "job-0.job.ns.svc:29500",
    contract.ENV_AGENT_PORT: "8080",
    contract.ENV_POD_UID: "uid",
    contract.ENV_POD_INDEX: "3",
}


def test_the_environment_is_read() -> None:
    settings = Settings.from_environment(ENVIRONMENT | {contract.ENV_CPUS: "7.5", contract.ENV_POD_IP: "10.0.0.7"})
    assert settings.rendezvous == ("job-0.job.ns.svc", 29500)
    assert (settings.index, settings.port, settings.cpus, settings.pod_ip) == (3, 8080, 7.5, "10.0.0.7")


def test_grace_is_300_seconds_and_cpus_come_from_the_cgroup_unless_said() -> None:
    settings = Settings.from_environment(ENVIRONMENT)
    assert (settings.grace, settings.cpus, settings.pod_ip) == (300.0, None, "")


def test_an_ipv6_address_is_understood() -> None:
    settings = Settings.from_environment(ENVIRONMENT | {contract.ENV_RENDEZVOUS: "[fd00::1]:29500"})
    assert settings.rendezvous == ("fd00::1", 29500)


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_a_missing_variable_is_named(name: str) -> None:
    with pytest.raises(InvalidError, match=f"Environment variable {name} "):
        Settings.from_environment({key: value for key, value in ENVIRONMENT.items() if key != name})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (contract.ENV_AGENT_PORT, "http", "is 'http'; the operator sets it to a number"),
        (contract.ENV_CPUS, "500m", "is '500m'; the operator sets it to a number"),
        (contract.ENV_RENDEZVOUS, "host", "is 'host', not host:port"),
    ],
)
def test_a_wrong_value_is_shown(name: str, value: str, said: str) -> None:
    with pytest.raises(InvalidError, match=f"{name} {said}"):
        Settings.from_environment(ENVIRONMENT | {name: value})


def test_an_unknown_key_of_the_configuration_is_named(tmp_path: Path, config: RunConfig) -> None:
    path = tmp_path / "run.json"
    path.write_text(config.to_json())
    assert read_run_config(path) == config
    path.write_text(config.to_json().replace('"attempt"', '"atempt"'))
    with pytest.raises(InvalidError) as refused:
        read_run_config(path)
    assert str(refused.value) == (
        "image: this trainer does not know atempt, which the operator wrote to run.json; use a newer image."
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"contract": 2, "later": True},
            "image: this trainer reads contract 1, but the operator wrote 2; use a newer image.",
        ),
        (
            {"contract": "two"},
            "image: this trainer reads contract 1, but the operator wrote two; use a newer image.",
        ),
        (
            {"checkpoint": {"everySeconds": 9.0, "keep": 3, "later": 1}},
            "image: this trainer does not know checkpoint.later, which the operator wrote to run.json; use a newer "
            "image.",
        ),
        (
            {"zeroStage": 4},
            "image: this trainer does not know the zeroStage that the operator wrote to run.json (Input should be 0, "
            "1, 2 or 3); use a newer image.",
        ),
    ],
)
def test_what_only_a_newer_image_can_read_is_refused_with_the_remedy(
    tmp_path: Path, config: RunConfig, changes: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_config, "CONTRACT_VERSION", 1)
    path = tmp_path / "run.json"
    path.write_text(json.dumps(json.loads(config.to_json()) | changes))
    with pytest.raises(InvalidError) as refused:
        read_run_config(path)
    assert str(refused.value) == said


def test_checking_a_workspace_leaves_nothing_in_it(tmp_path: Path) -> None:
    check_workspace(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_workspace_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match=r"\(No such file or directory\): it cannot be examined"):
        check_workspace(tmp_path / "none")
