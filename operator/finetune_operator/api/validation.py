"""Validation rules over several fields, each as CEL for the API server and as a predicate for all other code.

`tests/cluster/test_validation.py` applies both forms to a table of specs and expects the same verdict. The message is
what `kubectl apply` and `finetune validate` show to the user: field, value, remedy.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from finetune_operator.api.quantity import is_quantity, parse_quantity
from finetune_operator.api.shown import cut
from finetune_operator.api.v1alpha1 import Columns, FineTuneJobSpec
from finetune_operator.constants import CLAIMS_PATH, MAX_NAME_LENGTH, MOUNT_PATHS, VOLUMES
from finetune_trainer.contract import METHODS, TASKS, Task, TaskEntry


@dataclass(frozen=True)
class Rule:
    """A validation rule: `cel` and `holds` express the same condition, `message` what to do if it is violated.

    The placeholder `{value}` in the message stands for the value that `value_cel` and `value` compute.
    """

    field: str
    cel: str
    holds: Callable[[FineTuneJobSpec], bool]
    message: str
    value_cel: str = ""
    value: Callable[[FineTuneJobSpec], object] | None = None

    def sentence(self, spec: FineTuneJobSpec) -> str:
        """Return the message with the value filled in; a long value is shortened, so that the remedy stays visible."""
        text = self.message if self.value is None else self.message.replace("{value}", cut(str(self.value(spec))))
        return f"spec.{self.field}: {text}"

    @property
    def cel_message(self) -> str:
        """A CEL expression that evaluates to the message.

        The value must be a string, because the API server cannot bound the cost of a conversion with string().
        """
        parts = [quoted(part) for part in f"spec.{self.field}: {self.message}".split("{value}")]
        return f" + {self.value_cel} + ".join(parts)


def quoted(text: str) -> str:
    """Return a text as a CEL string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _given(columns: Columns) -> set[str]:
    return {name for name in Columns.model_fields if getattr(columns, name) is not None}


def _columns_cel(*wanted: str) -> str:
    names = Columns.model_fields
    return " && ".join(("" if name in wanted else "!") + f"has(self.dataset.columns.{name})" for name in names)


def _columns_rule(task: Task, entry: TaskEntry) -> Rule:
    combinations = [set(names) for names in entry.columns]
    cel = " || ".join(f"({_columns_cel(*sorted(names))})" for names in entry.columns)
    return Rule(
        field="dataset.columns",
        cel=f"self.task != '{task}' || {cel}",
        holds=lambda spec: spec.task != task or _given(spec.dataset.columns) in combinations,
        message=f"task '{task}' needs {entry.columns_needed}, and no others; "
        f"write for example columns: {entry.columns_example}",
    )


def _metrics_rule(task: Task, entry: TaskEntry) -> Rule:
    known = ", ".join(quoted(metric) for metric in entry.metrics)
    return Rule(
        field="evaluate.metrics",
        cel=f"!has(self.evaluate.metrics) || self.task != '{task}' || self.evaluate.metrics.all(m, m in [{known}])",
        holds=lambda spec: spec.task != task or set(spec.evaluate.metrics or ()) <= set(entry.metrics),
        message=f"names a metric that task '{task}' does not have; use {' or '.join(entry.metrics)}",
    )


def _no_sequence_length(task: Task) -> Rule:
    return Rule(
        field="training.sequenceLength",
        cel=f"self.task != '{task}' || !has(self.training.sequenceLength)",
        holds=lambda spec: spec.task != task or spec.training.sequence_length is None,
        message=f"has no meaning for task '{task}'; remove it",
    )


ADAPTERS = tuple(name for name, method in METHODS.items() if method.has_adapter)
HAS_ADAPTER = "self.method.type in [" + ", ".join(map(quoted, ADAPTERS)) + "]"


def _uri_rules(field: str, cel_path: str, present_cel: str, get: Callable[[FineTuneJobSpec], str | None]) -> Rule:
    return Rule(
        field=field,
        cel=f"!({present_cel}) || !{cel_path}.matches('(^|/)[.][.]?(/|$)')",
        holds=lambda spec: (uri := get(spec)) is None or re.search(r"(^|/)[.][.]?(/|$)", uri) is None,
        message="'{value}' has '.' or '..' as a part of its path; write the path without them",
        value_cel=cel_path,
        value=get,
    )


def _is_quantity_cel(path: str) -> str:
    """Return a CEL expression that tests whether the field at a path is a quantity.

    Exponents of three or more digits are refused before isQuantity, which would expand such a number to all its digits
    and keep the API server busy.
    """
    return f"!string({path}).matches('[eE][+-]?[0-9]{{3}}') && isQuantity(string({path}))"


NO_AMOUNT = "is not an amount above 0; write for example 4, 500m or 16Gi"
"""The message about an amount that is not above 0.

It omits the value, because the API server cannot bound the cost of a message that contains an int-or-string.
"""


def _quantity_rules(field: str, camel: str) -> Rule:
    def get(spec: FineTuneJobSpec) -> int | str:
        value: int | str = getattr(spec.resources, field)
        return value

    path = f"self.resources.{camel}"
    return Rule(
        field=f"resources.{camel}",
        cel=f"{_is_quantity_cel(path)} && quantity(string({path})).isGreaterThan(quantity('0'))",
        holds=lambda spec: _is_above_zero(get(spec)),
        message=NO_AMOUNT,
    )


def _scratch_rule() -> Rule:
    path = "self.resources.scratch"
    return Rule(
        field="resources.scratch",
        cel=f"!has({path}) || {_is_quantity_cel(path)} && quantity(string({path})).isGreaterThan(quantity('0'))",
        holds=lambda spec: _is_above_zero(spec.resources.scratch),
        message=NO_AMOUNT,
    )


def _is_above_zero(amount: int | str | None) -> bool:
    return amount is None or (is_quantity(amount) and parse_quantity(amount) > 0)


def _no_more_shared_than_memory(spec: FineTuneJobSpec) -> bool:
    memory, shared = spec.resources.memory, spec.resources.shared_memory
    return not (is_quantity(memory) and is_quantity(shared)) or parse_quantity(shared) <= parse_quantity(memory)


def _only_with_adapter(field: str, camel: str) -> Rule:
    return Rule(
        field=f"method.{camel}",
        cel=f"{HAS_ADAPTER} || !has(self.method.{camel})",
        holds=lambda spec: spec.method.type in ADAPTERS or getattr(spec.method, field) is None,
        message=f"applies only to {' and '.join(ADAPTERS)}, but method.type is '{{value}}'; "
        f"remove it or set method.type: {ADAPTERS[0]}",
        value_cel="self.method.type",
        value=lambda spec: spec.method.type,
    )


def _entries_rule(field: str, camel: str, key: str, taken: Callable[[str], bool], taken_cel: str, message: str) -> Rule:
    """Return a rule against reserved values of `key` in the entries of a list in podTemplate.

    `taken` tests whether a value is reserved; `taken_cel` is the same test of `v.<key>` in CEL.
    """

    def holds(spec: FineTuneJobSpec) -> bool:
        entries: list[dict[str, object]] = getattr(spec.pod_template, field) or []
        return not any(isinstance(name := entry.get(key), str) and taken(name) for entry in entries)

    path = f"self.podTemplate.{camel}"
    # The message omits the value: finding it again would exceed the cost that the API server allows.
    return Rule(
        field=f"podTemplate.{camel}",
        cel=f"!has({path}) || !{path}.exists(v, has(v.{key}) && {taken_cel})",
        holds=holds,
        message=message,
    )


_TAKEN_VOLUME = re.compile(rf"({'|'.join(VOLUMES)}|claim-[0-9]+)")
_TAKEN_PATH = re.compile(rf"({'|'.join(MOUNT_PATHS)})/?|{CLAIMS_PATH}/.*")


def _from_hub(spec: FineTuneJobSpec) -> bool:
    return spec.model.uri.startswith("hf://") or spec.dataset.uri.startswith("hf://")


RULES: tuple[Rule, ...] = (
    Rule(
        "dataset.evaluation",
        "has(self.dataset.evaluation.fraction) != has(self.dataset.evaluation.uri)",
        lambda spec: (spec.dataset.evaluation.fraction is None) != (spec.dataset.evaluation.uri is None),
        "needs exactly one source; set either fraction (for example 0.1) or uri",
    ),
    Rule(
        "dataset.evaluation.maxLeakFraction",
        "!has(self.dataset.evaluation.maxLeakFraction) || has(self.dataset.evaluation.uri)",
        lambda spec: spec.dataset.evaluation.max_leak_fraction is None or spec.dataset.evaluation.uri is not None,
        "has no meaning with fraction, which never puts equal rows on both sides; remove it or set uri",
    ),
    *(_columns_rule(task, entry) for task, entry in TASKS.items()),
    Rule(
        "training",
        "!(has(self.training.epochs) && has(self.training.maxSteps))",
        lambda spec: spec.training.epochs is None or spec.training.max_steps is None,
        "epochs and maxSteps are both set; keep one of them",
    ),
    *(_no_sequence_length(task) for task, entry in TASKS.items() if entry.reads == "pictures"),
    _only_with_adapter("rank", "rank"),
    _only_with_adapter("alpha", "alpha"),
    _only_with_adapter("dropout", "dropout"),
    _only_with_adapter("target_modules", "targetModules"),
    Rule(
        "output.merge",
        f"!self.output.merge || {HAS_ADAPTER}",
        lambda spec: not spec.output.merge or spec.method.type in ADAPTERS,
        f"true needs an adapter, but method.type is '{{value}}'; remove it or set method.type: {ADAPTERS[0]}",
        "self.method.type",
        lambda spec: spec.method.type,
    ),
    *(_metrics_rule(task, entry) for task, entry in TASKS.items()),
    Rule(
        "resources.processesPerNode",
        "self.resources.gpusPerNode == 0 || !has(self.resources.processesPerNode)",
        lambda spec: spec.resources.gpus_per_node == 0 or spec.resources.processes_per_node is None,
        "with gpusPerNode there is one process for each GPU; remove it, or set gpusPerNode: 0 to train on CPUs",
    ),
    _quantity_rules("cpu", "cpu"),
    _quantity_rules("memory", "memory"),
    _quantity_rules("shared_memory", "sharedMemory"),
    _scratch_rule(),
    Rule(
        "resources.sharedMemory",
        f"!({_is_quantity_cel('self.resources.sharedMemory')}) || !({_is_quantity_cel('self.resources.memory')}) || "
        "quantity(string(self.resources.sharedMemory)).compareTo(quantity(string(self.resources.memory))) <= 0",
        _no_more_shared_than_memory,
        "is more than resources.memory, of which it is a part; lower it or raise memory",
    ),
    Rule(
        "model.revision",
        "!has(self.model.revision) || self.model.uri.startsWith('hf://')",
        lambda spec: spec.model.revision is None or spec.model.uri.startswith("hf://"),
        "is of hf:// only; remove it",
    ),
    Rule(
        "dataset.revision",
        "!has(self.dataset.revision) || self.dataset.uri.startsWith('hf://')",
        lambda spec: spec.dataset.revision is None or spec.dataset.uri.startswith("hf://"),
        "is of hf:// only; remove it",
    ),
    Rule(
        "model.secretName",
        "!has(self.model.secretName) || self.model.uri.startsWith('hf://') || self.dataset.uri.startsWith('hf://')",
        lambda spec: spec.model.secret_name is None or _from_hub(spec),
        "is for hf:// sources, and there is none; remove it",
    ),
    _uri_rules("model.uri", "self.model.uri", "true", lambda spec: spec.model.uri),
    _uri_rules("dataset.uri", "self.dataset.uri", "true", lambda spec: spec.dataset.uri),
    _uri_rules(
        "dataset.evaluation.uri", "self.dataset.evaluation.uri", "has(self.dataset.evaluation.uri)",
        lambda spec: spec.dataset.evaluation.uri,
    ),
    _entries_rule(
        "volumes", "volumes", "name", lambda name: _TAKEN_VOLUME.fullmatch(name) is not None,
        f"v.name.matches('^{_TAKEN_VOLUME.pattern}$')",
        f"has a name of the operator's own volumes ({', '.join(VOLUMES)}, claim-<number>); give yours another one",
    ),
    _entries_rule(
        "volume_mounts", "volumeMounts", "mountPath", lambda path: _TAKEN_PATH.fullmatch(path) is not None,
        f"v.mountPath.matches('^({_TAKEN_PATH.pattern})$')",
        f"has a mountPath of the operator's own volumes ({', '.join(MOUNT_PATHS)}); mount yours at another path",
    ),
)  # fmt: skip

NAME_RULE_CEL = (
    f"self.metadata.name.size() <= {MAX_NAME_LENGTH} && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')"
)
NAME_MESSAGE = (
    "metadata.name: '{value}' is not a name that the job's pods can bear; use at most "
    f"{MAX_NAME_LENGTH} lowercase letters, digits and '-', with a letter first and no '-' last"
)


def name_fits(name: str) -> bool:
    """Return whether a name satisfies NAME_RULE_CEL."""
    return len(name) <= MAX_NAME_LENGTH and re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) is not None


def broken_rules(name: str, spec: FineTuneJobSpec) -> list[str]:
    """Return the messages of all rules that a job violates."""
    sentences = [] if name_fits(name) else [NAME_MESSAGE.replace("{value}", cut(name))]
    return sentences + [rule.sentence(spec) for rule in RULES if not rule.holds(spec)]
