"""The ledger is complete and bounded, and entries are only ever added."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.clusters import NOW
from support.manifests import manifest

from finetune_operator.api.parse import parse
from finetune_operator.api.v1alpha1 import FineTuneJobStatus
from finetune_operator.core.attempt.cause import Cause
from finetune_operator.core.run.retrain import next_run
from finetune_operator.core.settings import Settings
from finetune_operator.core.status import ledger
from finetune_trainer.contract import FailureClass

RUN = next_run(parse(manifest(**{"metadata.uid": "0b5e7d2a"})), 1, Settings(image="i"), "nonce", NOW)
CAUSE = Cause(FailureClass.HUNG, "it hung", 79, 1, "n1", "p-1", None, rows=("r:7",), slowest_rank=3, log=("one", "two"))


def test_an_entry_has_class_cause_code_rank_node_times_and_step() -> None:
    entry = ledger.failure(RUN, CAUSE, True, "no restart is left", 7, NOW, checkpoint_step=5)
    assert (entry.checkpoint_step, entry.slowest_rank, entry.rows) == (5, 3, ["r:7"])
    assert (entry.class_, entry.message) == ("Hung", "it hung; no restart is left")
    assert (entry.exit_code, entry.rank, entry.node, entry.pod, entry.step) == (79, 1, "n1", "p-1", 7)
    assert (entry.counted, entry.log) == (True, ["one", "two"])
    assert entry.model_dump(by_alias=True)["class"] == "Hung"


@pytest.mark.parametrize(
    ("code", "node", "where"),
    [
        (79, "n1", " (exit code 79, node n1)"),
        (None, "n1", " (node n1)"),
        (79, None, " (exit code 79)"),
        (None, None, ""),
    ],
)
def test_the_sentence_says_what_is_known_of_code_and_node(code: int | None, node: str | None, where: str) -> None:
    entry = ledger.failure(RUN, Cause(FailureClass.HUNG, "it hung", code, 1, node), True, "", 7, NOW)
    assert ledger.described(entry) == f"Hung{where}: it hung"


def test_a_success_is_an_entry_too_and_no_failure() -> None:
    status = ledger.entered(FineTuneJobStatus(run=RUN), ledger.success(RUN, 30, NOW))
    assert (status.ledger[-1].class_, status.ledger[-1].step) == ("Success", 30)
    assert ledger.last_failure(status) is None


def test_only_the_newest_failure_of_the_newest_run_speaks() -> None:
    status = ledger.entered(FineTuneJobStatus(run=RUN), ledger.failure(RUN, CAUSE, True, "", None, NOW))
    assert ledger.last_failure(status) is status.ledger[-1]
    later = status.model_copy(update={"run": RUN.model_copy(update={"number": 2})})
    assert ledger.last_failure(later) is None


def test_the_newest_twenty_stay_three_with_their_log_and_the_others_are_counted() -> None:
    status = FineTuneJobStatus(run=RUN)
    for attempt in range(1, 31):
        run = RUN.model_copy(update={"attempt": attempt})
        status = ledger.entered(status, ledger.failure(run, CAUSE, True, "", None, NOW))
    assert [entry.attempt for entry in status.ledger] == list(range(11, 31))
    assert status.ledger_dropped == 10
    assert [bool(entry.log) for entry in status.ledger[-4:]] == [False, True, True, True]


def test_logs_go_before_entries_when_there_is_no_room() -> None:
    status, long = FineTuneJobStatus(run=RUN), replace(CAUSE, log=tuple(20 * ["x" * 500]))
    for attempt in range(1, 6):
        run = RUN.model_copy(update={"attempt": attempt})
        status = ledger.entered(status, ledger.failure(run, long, True, "", None, NOW))
    assert [(entry.attempt, bool(entry.log)) for entry in status.ledger] == [
        (1, False), (2, False), (3, False), (4, False), (5, True),
    ]  # fmt: skip
