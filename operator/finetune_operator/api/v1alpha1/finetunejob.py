"""The FineTuneJob object: metadata, spec and status."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from finetune_operator.api.v1alpha1.spec import FineTuneJobSpec
from finetune_operator.api.v1alpha1.status import FineTuneJobStatus
from finetune_operator.constants import API_VERSION, KIND


class ObjectMeta(BaseModel):
    """The metadata fields that the operator reads; all others are ignored."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")

    name: str
    namespace: str = Field("default", max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    uid: str = ""
    generation: int = 1
    resource_version: str = ""
    deletion_timestamp: str | None = None


class FineTuneJob(BaseModel):
    """The custom resource FineTuneJob: a declaration of the model that is wanted."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")

    api_version: Literal["finetune.dev/v1alpha1"] = API_VERSION  # type: ignore[assignment]  # pydantic checks the literal
    kind: Literal["FineTuneJob"] = KIND  # type: ignore[assignment]
    metadata: ObjectMeta
    spec: FineTuneJobSpec
    status: FineTuneJobStatus = Field(default_factory=FineTuneJobStatus)
