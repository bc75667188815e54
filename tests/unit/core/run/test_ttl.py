"""When children are deleted after the end of a run."""

from datetime import timedelta

from support.clusters import NOW
from support.manifests import manifest

from finetune_operator.api.parse import parse
from finetune_operator.core.run.retrain import next_run
from finetune_operator.core.run.ttl import seconds_left
from finetune_operator.core.settings import Settings
from finetune_operator.core.times import to_text

RUN = next_run(parse(manifest(**{"metadata.uid": "0b5e7d2a"})), 1, Settings(image="i"), "nonce", NOW)
ENDED = RUN.model_copy(update={"completion_time": to_text(NOW)})


def test_the_time_runs_from_the_end() -> None:
    assert seconds_left(ENDED, 100, NOW + timedelta(seconds=40)) == 60
    assert seconds_left(ENDED, 0, NOW) == 0


def test_children_stay_without_a_time_and_while_the_run_goes_on() -> None:
    assert seconds_left(ENDED, None, NOW) is None
    assert seconds_left(RUN, 0, NOW) is None
