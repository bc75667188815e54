"""Checks what a pod needs before it may train: its environment, a valid run.json and a writable workspace.

A missing requirement is reported in one sentence with exit code 76, because another attempt would find the same.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from finetune_trainer import contract
from finetune_trainer.contract import RunConfig
from finetune_trainer.errors import InvalidError
from finetune_trainer.pod.paths import Paths

DEFAULT_GRACE_SECONDS = 300.0
_UNKNOWN_HERE = ("extra_forbidden", "literal_error")
"""Types of validation errors whose cause may be a newer operator."""


@dataclass(frozen=True)
class Settings:
    """The agent's settings, which the operator passes in the environment."""

    paths: Paths
    run_config: Path
    termination_log: Path
    index: int
    pod_uid: str
    pod_ip: str
    port: int
    rendezvous: tuple[str, int]
    grace: float
    cpus: float | None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read the settings from the environment. Raises InvalidError that names the variable."""

        def number(name: str, default: str | None = None) -> float:
            text = environment.get(name) or default
            try:
                return float(text or "")
            except ValueError:
                raise InvalidError(
                    f"Environment variable {name} is {text!r}; the operator sets it to a number."
                ) from None

        try:
            host, _, port = environment[contract.ENV_RENDEZVOUS].rpartition(":")
            return cls(
                paths=Paths.from_environment(environment),
                run_config=Path(environment[contract.ENV_RUN_CONFIG]),
                termination_log=Path(environment[contract.ENV_TERMINATION_LOG]),
                index=int(number(contract.ENV_POD_INDEX)),
                pod_uid=environment[contract.ENV_POD_UID],
                pod_ip=environment.get(contract.ENV_POD_IP, ""),
                port=int(number(contract.ENV_AGENT_PORT)),
                rendezvous=(host.strip("[]"), int(port)),
                grace=number(contract.ENV_GRACE, str(DEFAULT_GRACE_SECONDS)),
                cpus=number(contract.ENV_CPUS) if environment.get(contract.ENV_CPUS) else None,
            )
        except KeyError as error:
            raise InvalidError(f"Environment variable {error.args[0]} is missing; the operator sets it.") from None
        except ValueError:
            text = environment[contract.ENV_RENDEZVOUS]
            raise InvalidError(f"Environment variable {contract.ENV_RENDEZVOUS} is {text!r}, not host:port.") from None


def read_run_config(path: Path) -> RunConfig:
    """Read run.json. Raises InvalidError with one sentence."""
    try:
        return RunConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidError(f"The run's configuration {path} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        raise InvalidError(_sentence(path, error)) from error


def _sentence(path: Path, error: ValidationError) -> str:
    """Return a sentence on what is wrong with a run.json.

    An operator that is newer than this image may write fields or values that the image does not know.
    """
    faults = error.errors(include_url=False)
    first = next((fault for fault in faults if fault["type"] in _UNKNOWN_HERE), faults[0])
    place = ".".join(map(str, first["loc"])) or "the file"
    remedy = "use a newer image."
    match first["type"]:
        case contract.NEWER_CONTRACT:
            return f"image: {first['msg']}."
        case "extra_forbidden":
            return f"image: this trainer does not know {place}, which the operator wrote to {path.name}; {remedy}"
        case "literal_error":
            said = f"the {place} that the operator wrote to {path.name}"
            return f"image: this trainer does not know {said} ({first['msg']}); {remedy}"
    return f"The run's configuration {path} is not valid at {place}: {first['msg']}."


def check_workspace(path: Path) -> None:
    """Raise InvalidError if no file can be written in the workspace.

    Only an attempt to write is conclusive: mode bits do not show whether a volume is mounted read-only or whether its
    server maps root to nobody.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=path, prefix=".writable-"):
            return
    except OSError as error:
        reason = error.strerror
    try:
        status = path.stat()
        found = f"it belongs to uid {status.st_uid}, gid {status.st_gid} and has mode {stat.filemode(status.st_mode)}"
    except OSError as error:
        found = f"it cannot be examined ({error.strerror})"
    raise InvalidError(
        f"The workspace {path} cannot be written by uid {os.getuid()}, gid {os.getgid()} ({reason}): {found}; "
        "set podTemplate.securityContext.fsGroup, or make the folder writable for its group."
    )
