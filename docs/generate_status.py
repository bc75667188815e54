"""Writes docs/status.md from the operator's own tables. `make generate` runs it.

The page lists phases, conditions, reasons, classes, fields and events. This file contains what each name means; the
code determines which names exist, when they apply and how their messages read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finetune_operator import constants
from finetune_operator.api.crd import crd
from finetune_operator.constants import ConditionType, Phase, Reason
from finetune_operator.core.attempt.restart import MAX_UNCOUNTED_IN_ROW, NEVER, UNCOUNTED
from finetune_operator.core.status.conditions import for_phase
from finetune_operator.core.status.ledger import ENTRIES_WITH_LOG, MAX_ENTRIES, SUCCESS
from finetune_operator.core.status.transitions import EVENTS
from finetune_trainer.contract import CLASS_OF_EXIT_CODE, FailureClass

PAGE = Path(__file__).with_name("status.md")
TROUBLESHOOTING = Path(__file__).with_name("troubleshooting.md")
API = Path(__file__).with_name("api.md")

PHASES = {
    Phase.PENDING: "The run is decided; no pod has a node yet.",
    Phase.STARTING: "Pods have nodes; images and the model are loaded, until every rank has reported.",
    Phase.TRAINING: "Every rank has attested the same world and configuration, and steps are made.",
    Phase.EXPORTING: "The result is saved, loaded again and measured.",
    Phase.RESTARTING: "An attempt has ended, and the next one is about to start, or waits for its time.",
    Phase.SUSPENDING: "`spec.suspend` is true, and pods are still ending.",
    Phase.SUSPENDED: "`spec.suspend` is true, and no pod is left.",
    Phase.COMPLETE: "The model of the newest run is there.",
    Phase.FAILED: "The newest run has failed, and no other attempt follows.",
}
WORLD_READY_IN = {Phase.STARTING: "at its end ", Phase.TRAINING: "", Phase.EXPORTING: ""}
HEALTHY_IN = (Phase.TRAINING, Phase.EXPORTING)
"""The phases in which TrainingHealthy can be true. Like WorldReady, it follows from the ranks' reports, not from the
phase."""
CONDITIONS = {
    ConditionType.READY: ("The model that the spec asks for is there.", "It is not, or not yet."),
    ConditionType.RECONCILING: ("The operator is on the way to it.", "It is there, or somebody must act."),
    ConditionType.STALLED: ("Nothing goes on until somebody acts: the reason says who.", "Nothing is in the way."),
    ConditionType.WORLD_READY: (
        "All ranks of this attempt have attested its world and configuration.",
        "Not all have; or the attempt has ended.",
    ),
    ConditionType.TRAINING: ("Steps are made.", "None are made now."),
    ConditionType.TRAINING_HEALTHY: (
        "The steps do what they are for.",
        "They are skipped, or held up, or cannot be saved; or the last attempt hung. Unknown while none are made.",
    ),
    ConditionType.COMPLETE: ("The newest run has a result.", "It has none yet."),
    ConditionType.FAILED: ("The newest run has failed.", "It has not."),
    ConditionType.SUSPENDED: ("`spec.suspend` is true, and no pod is left.", "It is false, or pods are still there."),
}
FIELDS = {
    "observedGeneration": "from the first status on",
    "phase": "from the first status on",
    "conditions": "from the first status on",
    "run": "from the start of the first run on; a later run replaces it",
    "progress": "while an attempt trains, and after its success; a new attempt begins without",
    "facts": "from the first answer of rank 0's pod on, until the next run starts",
    "checkpoint": "from the first checkpoint of a run on, until the next run starts",
    "evaluation": "after a success, until the next run starts",
    "result": "after a success, until the next run starts",
    "ledger": "from the end of the first attempt on; over all runs",
    "ledgerDropped": "always",
}

HEAD = """# Status and events

<!-- written by `make generate` -->

All that the operator says of a FineTuneJob: `phase` is for people, `conditions` are for programs. What to do about a
reason or a class is in [troubleshooting](troubleshooting.md), the type of each field in [the API](api.md#status), and
what GitOps tools make of it in [GitOps](gitops/README.md#health).
"""
PHASES_HEAD = """## Phases

The conditions that are true in each; the others are `False`.
"""
PHASES_END = """\
`Stalled` may lie over any phase: when the spec is wrong or the API server refuses something, the phase stays, `Stalled`
becomes true, `Ready` and `Reconciling` false, with a reason of its own. It goes when the cause is gone.
"""
CONDITIONS_HEAD = """## Conditions

`Ready`, `Reconciling` and `Stalled` are those of kstatus: one of them is true, and none while a job is suspended. They
speak of the newest spec only if `status.observedGeneration` is `metadata.generation`.
"""
REASONS_HEAD = """## Reasons and events

The message of each reason; words in braces are filled in. Reason and message stand on all conditions that follow from
the phase. Where a type of event is given, `kubectl describe` and `kubectl get events` show it too.
"""
EVENTS_END = """\
Events are of `events.k8s.io/v1` and tell transitions, not states: what is refused every minute is told once, an
operator that starts again repeats nothing, and what is said twice of one attempt is one event. An attempt that ended is
one warning: `Restarting` if another follows, `Failed` if none does; both name its class. An API server keeps events for
an hour; what lasts is in `status.ledger`.
"""
CLASSES_HEAD = f"""## Classes of attempts

`class` of an entry in `status.ledger`. It has the newest {MAX_ENTRIES} attempts at most, the newest
{ENTRIES_WITH_LOG} with their last log lines; `ledgerDropped` is the number of those before. A failure that is counted
is one of `faultTolerance.maxRestarts` in `windowMinutes`.
"""
FIELDS_HEAD = """## Fields

A field is absent while there is nothing to say. A status has at most 32 KiB.
"""


def page() -> str:
    """Render the whole document."""
    parts = [
        HEAD,
        PHASES_HEAD,
        _table("phase | meaning | true", (f"`{p}` | {PHASES[p]} | {_true_in(p)}" for p in Phase)),
        PHASES_END,
        CONDITIONS_HEAD,
        _table("condition | true | false", (f"`{c}` | {' | '.join(CONDITIONS[c])}" for c in ConditionType)),
        REASONS_HEAD,
        _table("reason | message | event", map(_reason, reasons())),
        EVENTS_END,
        CLASSES_HEAD,
        _table("class | exit code | counted | then", [_success(), *map(_failure, FailureClass)]),
        FIELDS_HEAD,
        _table(
            "field | meaning | there", (f"{_linked_field(n)} | {text} | {FIELDS[n]}" for n, text in fields().items())
        ),
    ]
    return "\n".join(parts)


def reasons() -> list[Reason]:
    """Return the reasons in the order of the operator's list."""
    return [value for value in vars(constants).values() if isinstance(value, Reason)]


def fields() -> dict[str, str]:
    """Return the description of each field of the status, from the CustomResourceDefinition."""
    (version,) = crd()["spec"]["versions"]
    properties = version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
    return {name: _shape(field).get("description", "") for name, field in properties.items()}


def _shape(field: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a list's items, or of the field itself."""
    items: dict[str, Any] = field.get("items", field)
    return items


def _true_in(phase: Phase) -> str:
    conditions = for_phase([], phase, "", "", 1, datetime(2026, 1, 1, tzinfo=UTC))
    true = [condition.type for condition in conditions if condition.status == "True"]
    names = [f"`{kind}`" for kind in true]
    if phase in WORLD_READY_IN:
        names.append(f"{WORLD_READY_IN[phase]}`{ConditionType.WORLD_READY}`")
    if phase in HEALTHY_IN:
        names.append(f"unless something is wrong `{ConditionType.TRAINING_HEALTHY}`")
    return ", ".join(names)


def _reason(reason: Reason) -> str:
    message = f"`{reason.message}`" if reason.message else ""
    return f"{_linked(reason.name)} | {message} | {EVENTS.get(reason, '')}"


def _success() -> str:
    return f"`{SUCCESS}` | 0 | no | the run is complete"


def _failure(failure: FailureClass) -> str:
    codes = [str(int(code)) for code, named in CLASS_OF_EXIT_CODE.items() if named == failure]
    counted, follows = "yes", "another attempt, as long as the budget lasts"
    if failure in NEVER:
        counted, follows = "no", "none: the run has failed"
    elif failure in UNCOUNTED:
        row = f"{MAX_UNCOUNTED_IN_ROW + 1}st in a row without a new checkpoint"
        counted, follows = "no", f"another attempt, if it was not the {row}"
        if failure is FailureClass.SUSPENDED:
            follows = "another attempt, when the job is resumed or the queue has room"
        if failure is FailureClass.EDITED:
            follows = "another attempt, launched as the spec says now"
        if failure is FailureClass.GANG_TIMEOUT:
            follows = "another attempt, each time a little later"
    elif failure is FailureClass.OUT_OF_MEMORY:
        counted, follows = "no", "an attempt with a smaller plan: half the rows in a forward pass, and so on"
    return f"{_linked(failure)} | {', '.join(codes)} | {counted} | {follows}"


def _linked(name: str) -> str:
    """Return the name, as a link if it has its own section in troubleshooting.md.

    If a reason and a class have the same name, the reason's section comes first and the link of the class's is
    numbered.
    """
    headings = re.findall(r"^### (.*)$", TROUBLESHOOTING.read_text(), re.MULTILINE)
    if name not in headings:
        return f"`{name}`"
    second = isinstance(name, FailureClass) and headings.count(name) > 1
    return f"[`{name}`](troubleshooting.md#{name.lower()}{'-1' if second else ''})"


def _linked_field(name: str) -> str:
    anchor = f"status{name.lower()}"
    return f"[`{name}`](api.md#{anchor})" if f"### status.{name}\n" in API.read_text() else f"`{name}`"


def _table(head: str, rows: Iterable[str]) -> str:
    rule = re.sub(r"[^|]+", "---", head)
    return "\n".join([f"| {head} |", f"|{rule}|", *(f"| {row} |" for row in rows)]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
