"""docs/status.md and the code name the same things, and the page describes what the operator does."""

from __future__ import annotations

import re
import runpy

import pytest
from docs.pages import ROOT
from support.clusters import NOW
from support.manifests import manifest
from support.recordings import recorded

from finetune_operator import constants
from finetune_operator.api.crd import crd
from finetune_operator.api.parse import parse
from finetune_operator.api.v1alpha1 import FaultTolerance
from finetune_operator.constants import ConditionType, Phase, Reason
from finetune_operator.core.attempt.restart import MAX_UNCOUNTED_IN_ROW, GiveUp, Restart, after_failure
from finetune_operator.core.run.retrain import next_run
from finetune_operator.core.settings import Settings
from finetune_operator.core.status.transitions import EVENTS
from finetune_operator.protocol import Object
from finetune_trainer.contract import CLASS_OF_EXIT_CODE, FailureClass

PAGE = (ROOT / "docs" / "status.md").read_text()
REASONS = {value.name: value for value in vars(constants).values() if isinstance(value, Reason)}
RUN = next_run(parse(manifest(**{"metadata.uid": "0b5e7d2a"})), 1, Settings(image="i"), "nonce", NOW)


def table(name: str) -> dict[str, list[str]]:
    """Return the rows of a part's table: the other cells, by the name in the first cell."""
    part = PAGE.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| \[?`(\w+)`(?:\]\([^)]*\))? \| (.*) \|$", part, re.MULTILINE)
    return {first: [cell.strip() for cell in rest.split(" | ")] for first, rest in rows}


def test_the_page_is_the_generated_one() -> None:
    assert runpy.run_path(str(ROOT / "docs" / "generate_status.py"))["page"]() == PAGE, "run: make generate"


def test_every_phase_condition_reason_and_class_is_there_and_no_other() -> None:
    assert list(table("Phases")) == list(Phase)
    assert list(table("Conditions")) == list(ConditionType)
    assert table("Reasons and events").keys() == REASONS.keys()
    assert set(table("Classes of attempts")) == {"Success", *FailureClass}
    for rows in map(table, ("Phases", "Conditions", "Classes of attempts")):
        assert all(cells[0] or cells[1] for cells in rows.values())


def test_every_field_of_the_status_is_there_and_no_other() -> None:
    (version,) = crd()["spec"]["versions"]
    properties = version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
    assert table("Fields").keys() == properties.keys()
    for meaning, there in table("Fields").values():
        assert meaning
        assert there


@pytest.mark.parametrize("reason", REASONS.values(), ids=lambda reason: reason.name)
def test_a_reason_has_its_message_and_the_type_of_its_event(reason: Reason) -> None:
    message, event = table("Reasons and events")[reason.name]
    assert message.strip("`") == reason.message
    assert event == EVENTS.get(reason, "")


@pytest.mark.parametrize("obj", [pytest.param(obj, id=name) for name, obj in recorded("memory").items()])
def test_a_recorded_job_has_the_conditions_of_its_phase(obj: Object) -> None:
    status = obj["status"]
    true = {c["type"] for c in status.get("conditions", []) if c["status"] == "True"}
    if "phase" not in status or (status["phase"] != Phase.FAILED and "Stalled" in true):
        return
    told = set(re.findall(r"`(\w+)`", table("Phases")[status["phase"]][1]))
    not_always = {ConditionType.WORLD_READY} if status["phase"] == Phase.STARTING else {ConditionType.TRAINING_HEALTHY}
    assert told - not_always <= true <= told


@pytest.mark.parametrize("failure", FailureClass)
def test_what_follows_on_a_class_is_what_the_policy_decides(failure: FailureClass) -> None:
    codes, counted, then = table("Classes of attempts")[failure]
    follows = after_failure(failure, RUN, 8, FaultTolerance(), NOW, 0.5)
    assert codes == ", ".join(str(int(code)) for code, named in CLASS_OF_EXIT_CODE.items() if named == failure)
    assert counted == ("yes" if follows.counted else "no")
    assert then.startswith("none") == isinstance(follows, GiveUp)
    if isinstance(follows, Restart):
        assert ("half the rows" in then) == (follows.micro_batch_size == 4)
        often = RUN.model_copy(update={"uncounted_in_row": MAX_UNCOUNTED_IN_ROW})
        last = after_failure(failure, often, 8, FaultTolerance(), NOW, 0.5)
        assert ("21st in a row" in then) == isinstance(last, GiveUp)


def test_a_link_leads_to_a_heading() -> None:
    links = re.findall(r"\]\(([\w/.]+)#([\w-]+)\)", PAGE)
    assert len(links) > len(REASONS)
    for page, anchor in links:
        headings = re.findall(r"^#+ (.*)$", (ROOT / "docs" / page).read_text(), re.MULTILINE)
        slugs = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
        name, _, number = anchor.partition("-1")
        assert anchor in slugs or (number == "" and slugs.count(name) == 2), anchor
