"""The CustomResourceDefinition, generated from the pydantic models.

An API server accepts only a part of JSON Schema: references are resolved, `null` alternatives and titles are dropped,
`const` becomes `enum`, exclusive bounds become booleans, and `additionalProperties: false` is dropped: the API server
prunes unknown fields, and `kubectl apply` refuses them, because it validates strictly.
"""

from __future__ import annotations

from typing import Any

import yaml

from finetune_operator import constants
from finetune_operator.api.v1alpha1 import FineTuneJobSpec, FineTuneJobStatus
from finetune_operator.api.validation import NAME_MESSAGE, NAME_RULE_CEL, RULES, Rule, quoted

Schema = dict[str, Any]

COLUMNS = (
    ("Phase", "string", ".status.phase", 0),
    ("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', 0),
    ("Run", "integer", ".status.run.number", 0),
    ("Step", "integer", ".status.progress.step", 0),
    ("Loss", "number", ".status.progress.loss", 0),
    ("ETA", "string", ".status.progress.eta", 0),
    ("Nodes", "integer", ".spec.resources.nodes", 1),
    ("ZeRO", "integer", ".spec.deepspeed.zeroStage", 1),
    ("Model", "string", ".spec.model.uri", 1),
    ("Message", "string", '.status.conditions[?(@.type=="Ready")].message', 1),
    ("Age", "date", ".metadata.creationTimestamp", 0),
)


def structural(schema: Schema) -> Schema:
    """Convert a pydantic JSON schema to a structural schema that an API server accepts."""
    return _structural(schema, schema.get("$defs", {}))


def _structural(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    if "$ref" in schema:
        target = definitions[schema["$ref"].rsplit("/", 1)[1]]
        schema = {**target, **{k: v for k, v in schema.items() if k != "$ref"}}
    if schema.get("x-kubernetes-int-or-string"):
        kept = ("description", "default", "x-kubernetes-int-or-string", "maxLength")
        return {key: schema[key] for key in kept if schema.get(key) is not None}
    if alternatives := schema.get("anyOf"):
        (only,) = [a for a in alternatives if a.get("type") != "null"]
        schema = {**only, **{k: v for k, v in schema.items() if k != "anyOf"}}
        return _structural(schema, definitions)
    result: Schema = {}
    for key, value in schema.items():
        match key:
            case "$defs" | "title":
                pass
            case "default" if value is None:
                pass
            case "default" if isinstance(value, dict):
                result[key] = _own_defaults(value, schema.get("properties", {}))
            case "const":
                result["enum"] = [value]
            case "exclusiveMinimum" | "exclusiveMaximum":
                result[key.replace("exclusive", "").lower()] = value
                result[key] = True
            case "additionalProperties":
                if value is True:
                    result["x-kubernetes-preserve-unknown-fields"] = True
                elif value is not False:
                    result[key] = _structural(value, definitions)
            case "properties":
                result[key] = {name: _structural(field, definitions) for name, field in value.items()}
            case "items":
                result[key] = _structural(value, definitions)
            case _:
                result[key] = value
    return result


def _own_defaults(value: Schema, properties: dict[str, Schema]) -> Schema:
    """Return the part of an object's default that differs from its fields' own defaults.

    The API server fills in the defaults of the fields itself.
    """
    return {k: v for k, v in value.items() if v is not None and properties.get(k, {}).get("default") != v}


def _cel(rule: Rule) -> Schema:
    return {"rule": rule.cel, "messageExpression": rule.cel_message}


def crd() -> Schema:
    """Return the manifest of the CustomResourceDefinition."""
    spec = structural(FineTuneJobSpec.model_json_schema(by_alias=True))
    spec["x-kubernetes-validations"] = [_cel(rule) for rule in RULES]
    status = structural(FineTuneJobStatus.model_json_schema(by_alias=True))
    # With this default, kstatus reports an object that no operator has observed yet as not current.
    status["default"] = {"observedGeneration": -1}
    name_message = " + self.metadata.name + ".join(quoted(part) for part in NAME_MESSAGE.split("{value}"))
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{constants.PLURAL}.{constants.GROUP}"},
        "spec": {
            "group": constants.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": constants.KIND,
                "listKind": f"{constants.KIND}List",
                "plural": constants.PLURAL,
                "singular": constants.SINGULAR,
                "shortNames": [constants.SHORT_NAME],
            },
            "versions": [
                {
                    "name": constants.VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        # The API server drops a priority of 0. Without it, the stored object equals the applied one.
                        {"name": name, "type": kind, "jsonPath": path} | ({"priority": priority} if priority else {})
                        for name, kind, path, priority in COLUMNS
                    ],
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "description": "A declaration of the model that is wanted, kept in Git.",
                            "required": ["spec"],
                            "properties": {
                                "apiVersion": {"type": "string"},
                                "kind": {"type": "string"},
                                "metadata": {"type": "object"},
                                "spec": spec,
                                "status": status,
                            },
                            "x-kubernetes-validations": [
                                {"rule": NAME_RULE_CEL, "messageExpression": name_message},
                            ],
                        }
                    },
                }
            ],
        },
    }


def crd_yaml() -> str:
    """Return the CustomResourceDefinition as YAML, as it is committed in crds/."""
    text: str = yaml.safe_dump(crd(), sort_keys=False, width=120, allow_unicode=True)
    return text
