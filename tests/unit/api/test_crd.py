import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, Field

from finetune_operator.api.crd import crd, crd_yaml, structural
from finetune_operator.api.v1alpha1 import FineTuneJobSpec

ROOT = Path(__file__).parents[3]


def schema() -> dict[str, Any]:
    (version,) = crd()["spec"]["versions"]
    return version["schema"]["openAPIV3Schema"]


def test_the_committed_crd_is_the_generated_one() -> None:
    assert (ROOT / "crds" / "finetunejobs.yaml").read_text() == crd_yaml(), "run: make generate"


def test_the_schema_has_only_what_an_api_server_takes() -> None:
    text = json.dumps(schema())
    for forbidden in ('"$ref"', '"$defs"', '"anyOf"', '"title"', '"const"', '"additionalProperties": false', "null"):
        assert forbidden not in text


def test_every_spec_field_has_a_description_or_says_it_by_its_kubernetes_name() -> None:
    spec = schema()["properties"]["spec"]["properties"]
    undescribed = [name for name, field in spec.items() if "description" not in field and name not in ("task",)]
    assert undescribed == []


def test_a_job_that_no_operator_has_seen_is_not_current() -> None:
    assert schema()["properties"]["status"]["default"] == {"observedGeneration": -1}


def test_conditions_are_a_map_by_type() -> None:
    conditions = schema()["properties"]["status"]["properties"]["conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]


def test_defaults_of_objects_leave_the_defaults_of_fields_to_the_api_server() -> None:
    spec = schema()["properties"]["spec"]["properties"]
    assert spec["training"]["default"] == {}
    assert spec["training"]["properties"]["globalBatchSize"]["default"] == 32
    assert spec["dataset"]["properties"]["evaluation"]["default"] == {"fraction": 0.1}


def test_a_default_in_the_schema_is_pydantic_s_default() -> None:
    spec = FineTuneJobSpec.model_validate(
        {
            "task": "CausalLM",
            "model": {"uri": "hf://a/b"},
            "dataset": {"uri": "hf://a/b", "columns": {"text": "t"}},
            "resources": {"gpusPerNode": 1},
        }
    )
    fields = schema()["properties"]["spec"]["properties"]
    for part in ("training", "deepspeed", "resources", "storage", "output"):
        given = spec.model_dump(by_alias=True)[part]
        for name, field in fields[part]["properties"].items():
            if "default" in field:
                assert given[name] == field["default"], f"{part}.{name}"


def test_exclusive_bounds_become_booleans() -> None:
    class Model(BaseModel):
        number: float = Field(gt=0, lt=1)

    number = structural(Model.model_json_schema())["properties"]["number"]
    assert number == {
        "type": "number", "minimum": 0, "exclusiveMinimum": True, "maximum": 1, "exclusiveMaximum": True
    }  # fmt: skip


@pytest.mark.parametrize("column", ["Phase", "Run", "Step", "Loss", "ETA", "Age"])
def test_kubectl_get_shows_a_column(column: str) -> None:
    (version,) = yaml.safe_load(crd_yaml())["spec"]["versions"]
    assert column in {c["name"] for c in version["additionalPrinterColumns"] if "priority" not in c}
