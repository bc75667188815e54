"""What is remembered of a look at a job, and until when."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from support.clusters import NOW
from support.manifests import manifest

from finetune_operator.api.parse import parse
from finetune_operator.core.observed.views import Observed
from finetune_operator.runtime.intake import Key
from finetune_operator.runtime.recollection import LASTS, Look, Recollection

KEY = Key("default", "clauses")
OBSERVED = Observed(parse(manifest(**{"metadata.uid": "u", "metadata.generation": 1})), NOW, "n")


def look(recollection: Recollection) -> Look:
    return Look(recollection.begin(KEY, NOW), manifest(), OBSERVED)


def test_a_look_is_recalled_for_a_while() -> None:
    recollection = Recollection()
    recollection.keep(KEY, kept := look(recollection))
    assert recollection.of(KEY, NOW) is kept
    assert recollection.of(KEY, NOW + timedelta(seconds=LASTS - 1)) is kept
    assert recollection.of(KEY, NOW + timedelta(seconds=LASTS)) is None


def test_a_clock_that_was_set_back_ends_it() -> None:
    recollection = Recollection()
    recollection.keep(KEY, look(recollection))
    assert recollection.of(KEY, NOW - timedelta(seconds=1)) is None


def test_a_change_ends_it() -> None:
    recollection = Recollection()
    recollection.keep(KEY, look(recollection))
    recollection.forget(KEY)
    assert recollection.of(KEY, NOW) is None


def test_what_others_write_into_the_job_ends_it() -> None:
    recollection = Recollection()
    mine = replace(look(recollection), manifest=manifest(**{"metadata.resourceVersion": "7"}))
    recollection.keep(KEY, mine)
    recollection.saw(KEY, "7")
    assert recollection.of(KEY, NOW) is mine
    recollection.saw(KEY, "8")
    assert recollection.of(KEY, NOW) is None


def test_a_look_during_which_something_changed_is_not_kept() -> None:
    recollection = Recollection()
    slow = look(recollection)
    recollection.forget(KEY)
    recollection.keep(KEY, slow)
    assert recollection.of(KEY, NOW) is None
    later = look(recollection)
    recollection.keep(KEY, slow)
    assert recollection.of(KEY, NOW) is None
    recollection.keep(KEY, later)
    assert recollection.of(KEY, NOW) is later
