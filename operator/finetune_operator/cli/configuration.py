"""Reads the operator's configuration file, which the chart mounts: defaults for jobs, and settings of the operator."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from finetune_operator.cli.errors import UsageError
from finetune_operator.constants import DEFAULT_CLAIM, MANAGER
from finetune_operator.core.settings import Network, Settings

DEFAULT_IMAGE = "finetune-trainer:latest"


class _Part(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", strict=True)


class NetworkPolicyConfiguration(_Part):
    """The settings for the NetworkPolicy of each FineTuneJob."""

    egress: list[dict[str, Any]] = Field(default_factory=list)
    operator: dict[str, Any] | None = None


class OperatorConfiguration(_Part):
    """The content of the configuration file; all keys are optional."""

    trainer_image: str = Field(DEFAULT_IMAGE, min_length=1)
    storage_claim_name: str = Field(DEFAULT_CLAIM, min_length=1)
    network_policy: NetworkPolicyConfiguration | None = None
    allow_remote_code: bool = False
    allow_pickle_weights: bool = False
    lease_name: str | None = Field(None, min_length=1, max_length=253)


def lease_name(path: str | None, namespaces: list[str] | None) -> str:
    """Return the name of the Lease for leader election among several operators.

    The file may set it; by default, each set of watched namespaces has a Lease of its own. Raises UsageError as
    `read_settings` does.
    """
    name = (_read(path) if path else OperatorConfiguration()).lease_name
    if name or not namespaces:
        return name or MANAGER
    return f"{MANAGER}.{sha256(' '.join(sorted(set(namespaces))).encode()).hexdigest()[:8]}"


def read_settings(path: str | None, image: str | None) -> Settings:
    """Return the settings from the file, if one is given; `image` takes precedence over the file's image.

    Raises UsageError with a message for each wrong key.
    """
    configuration = _read(path) if path else OperatorConfiguration()
    network = configuration.network_policy
    return Settings(
        image=image or configuration.trainer_image,
        claim=configuration.storage_claim_name,
        network=Network(tuple(network.egress), network.operator) if network else None,
        allow_remote_code=configuration.allow_remote_code,
        allow_pickle_weights=configuration.allow_pickle_weights,
    )


def _read(path: str) -> OperatorConfiguration:
    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(f"--config: {path} cannot be read ({reason}); name the operator's configuration") from None
    except yaml.YAMLError as error:
        raise UsageError(f"--config: {path} is not YAML ({' '.join(str(error).split())}); mend it") from None
    try:
        return OperatorConfiguration.model_validate({} if content is None else content)
    except ValidationError as error:
        raise UsageError(*(_sentence(path, fault) for fault in error.errors())) from None


def _sentence(path: str, fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"{path}: {key}: is no key of the operator's configuration; remove it"
    return f"{path}: {key or 'the file'}: {fault['input']!r} is wrong: {fault['msg']}"
