"""What the condition of a failed Job reports about the pod that failed first."""

import pytest

from finetune_operator.core.observed.job_verdict import JobVerdict, job_verdict

BY_CODE = (
    "Container trainer for pod legal/clauses-0b5e7-1-1-0-x7k2p failed with exit code 76 "
    "matching FailJob rule at index 0"
)
DISRUPTED = "Pod legal/clauses-0b5e7-1-1-1-q9z4w has condition DisruptionTarget matching FailJob rule at index 1"


def test_an_exit_code_is_read_with_its_pod() -> None:
    assert job_verdict(BY_CODE) == JobVerdict(76, "clauses-0b5e7-1-1-0-x7k2p")


def test_a_pod_that_the_cluster_took_away_has_no_exit_code() -> None:
    assert job_verdict(DISRUPTED) == JobVerdict(None, "clauses-0b5e7-1-1-1-q9z4w")


@pytest.mark.parametrize(
    "message",
    [
        "",
        "Job has reached the specified backoff limit",
        "Job was active longer than specified deadline",
        BY_CODE.replace("FailJob", "Ignore"),
        "pod x matching FailJob rule at index 0",
        "exit code 76",
    ],
)
def test_any_other_message_says_nothing_of_a_pod(message: str) -> None:
    assert job_verdict(message) is None
