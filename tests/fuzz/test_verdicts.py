"""Tests that every manifest gets a verdict: messages that each name a field, or children that can be created."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
from fuzz.amount import OBJECTS, share
from fuzz.mutations import Object, fuzzed
from hypothesis import given
from support.clusters import NOW

from finetune_operator.api.parse import InvalidManifestError, parse
from finetune_operator.core.run.resolve import refusals
from finetune_operator.core.run.retrain import next_run
from finetune_operator.core.settings import Settings
from finetune_operator.manifests.children import children

SETTINGS = Settings(image="trainer:1")
SENTENCE = re.compile(r"\S.*: \S.*[^.]")
"""A message on one line: a field, and what is wrong with it."""
LONGEST = 640
ENVELOPE = 24 * 1024
"""The most bytes of the children without the user's content."""

verdicts: Counter[str] = Counter()


@pytest.mark.timeout(900)
@share(0.65)
@given(fuzzed())
def test_a_manifest_gets_a_clear_verdict(manifest: Object) -> None:
    try:
        job = parse(manifest)
        refused = refusals(job.spec, SETTINGS)
    except InvalidManifestError as error:
        refused = list(error.sentences)
        assert refused
    for sentence in refused:
        assert len(sentence) <= LONGEST
        assert sentence.isprintable()
        assert SENTENCE.fullmatch(sentence)
    assert len(refused) <= 20
    verdicts["refused" if refused else "accepted"] += 1
    if refused:
        return
    run = next_run(job, 1, SETTINGS, "nonce", NOW)
    made = children(job, run, SETTINGS)
    # This is a later attempt of the run, after each kind of failure.
    later = {"attempt": 2, "avoid_nodes": ["n"], "micro_batch_size": 1, "activation_checkpointing": True}
    assert len(children(job, run.model_copy(update=later), SETTINGS)) == len(made)
    size = sum(len(json.dumps(child, allow_nan=False)) for _, child in made)
    assert size <= 4 * len(json.dumps(manifest)) + ENVELOPE


def test_both_verdicts_are_frequent() -> None:
    assert verdicts.total() >= OBJECTS * 0.65 * 0.9, "run the whole file: this looks at what the test above has seen"
    assert min(verdicts["accepted"], verdicts["refused"]) > verdicts.total() / 10
