"""docs/troubleshooting.md has an entry for each reason and each class of failure, with the message that users read."""

from __future__ import annotations

import re

import pytest
from docs.pages import ROOT

from finetune_operator import constants
from finetune_operator.constants import Reason
from finetune_operator.core.observed.scheduler_message import explained
from finetune_trainer.contract import CLASS_OF_EXIT_CODE, FailureClass

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
REASONS = [value for value in vars(constants).values() if isinstance(value, Reason)]
CODES = {failure: code for code, failure in CLASS_OF_EXIT_CODE.items()}
ENOUGH = 12
"""The number of characters that are enough to distinguish a message's template from the others."""


def part(name: str) -> str:
    """Return the text under a heading of the second level."""
    return PAGE.partition(f"\n## {name}\n")[2].partition("\n## ")[0]


def sections(name: str) -> dict[str, str]:
    """Return the text under each heading of the third level, by heading."""
    pieces = re.split(r"^### (.*)\n", part(name), flags=re.MULTILINE)
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


def rows(name: str) -> dict[str, str]:
    """Return the rest of each row of the table in a part, by the name in the first cell."""
    return dict(re.findall(r"^\| `(\w+)` \|(.*)$", part(name), re.MULTILINE))


def literal(template: str) -> str:
    """Return the longest clause of a message, or part of one, that is the same for every job."""
    return max(re.split(r"\{\w+\}|;", template), key=len).strip()


@pytest.mark.parametrize("reason", REASONS, ids=lambda reason: reason.name)
def test_a_reason_has_an_entry_that_quotes_its_message(reason: Reason) -> None:
    entry = rows("Reasons").get(reason.name) or sections("Reasons").get(reason.name)
    assert entry, f"docs/troubleshooting.md: add '### {reason.name}' with Seen, Cause and Remedy under Reasons"
    fragment = literal(reason.message)
    if len(fragment) >= ENOUGH:
        assert fragment in " ".join(entry.split()), f"the entry of {reason.name} does not quote: {fragment}"


def test_no_entry_is_left_of_a_reason_that_is_gone() -> None:
    assert {*rows("Reasons"), *sections("Reasons")} == {reason.name for reason in REASONS}


@pytest.mark.parametrize("failure", FailureClass)
def test_a_class_of_failure_has_an_entry_with_its_exit_code(failure: FailureClass) -> None:
    entry = sections("Classes of failure").get(failure)
    assert entry, f"docs/troubleshooting.md: add '### {failure}' with Seen, Cause and Remedy under Classes of failure"
    expected = f"Exit code {CODES[failure]}." if failure in CODES else "exit code"
    assert expected in entry.partition("- **Seen:**")[0]


@pytest.mark.parametrize(("name", "heading"), [("Reasons", "Unschedulable"), ("Classes of failure", "GangTimeout")])
def test_an_entry_on_pods_without_a_node_quotes_what_the_product_makes_of_the_scheduler_s_message(
    name: str, heading: str
) -> None:
    sentence = explained("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
    assert sentence
    assert sentence in " ".join(sections(name)[heading].split())


def test_no_entry_is_left_of_a_class_that_is_gone() -> None:
    assert set(sections("Classes of failure")) == set(FailureClass)


@pytest.mark.parametrize("name", ["Reasons", "Classes of failure", "Situations"])
def test_every_entry_has_a_remedy(name: str) -> None:
    assert sections(name)
    for heading, entry in sections(name).items():
        assert "- **Remedy:** " in entry, heading
        assert "- **Cause:** " in entry or "- **Seen:** " in entry, heading
