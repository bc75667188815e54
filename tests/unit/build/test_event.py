from support.clusters import NOW

from finetune_operator.build.event import event
from finetune_operator.core.transitions import Note


def test_a_long_note_has_at_most_1024_bytes_as_the_api_server_wants_it() -> None:
    job = {"metadata": {"name": "clauses", "namespace": "default", "uid": "u", "resourceVersion": "7"}}
    made = event(job, Note("Warning", "Failed", "漢" * 1000), NOW)
    assert 1000 < len(made["note"].encode()) <= 1024
