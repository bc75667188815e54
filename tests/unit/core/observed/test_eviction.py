"""A kubelet's message about a pod that exceeded its own limit, and evictions that the pod did not cause."""

from __future__ import annotations

import pytest

from finetune_operator.core.observed.eviction import own_excess

DISK = "wrote more than 100Gi to its node's disk; raise resources.scratch"
NODE_IS_LOW = (
    "The node was low on resource: ephemeral-storage. Threshold quantity: 10Gi, available: 9Gi. "
    "Container trainer was using 80Gi, request is 0, has larger consumption of ephemeral-storage. "
)


@pytest.mark.parametrize(
    ("message", "excess"),
    [
        ('Usage of EmptyDir volume "scratch" exceeds the limit "100Gi". ', DISK),
        ("Pod ephemeral local storage usage exceeds the total limit of containers 100Gi. ", DISK),
        ('Container trainer exceeded its local ephemeral storage limit "100Gi". ', DISK),
        (
            'Usage of EmptyDir volume "shared-memory" exceeds the limit "1Gi". ',
            "wrote more than 1Gi to /dev/shm; raise resources.sharedMemory",
        ),
        (
            'Usage of EmptyDir volume "mine" exceeds the limit "5G". ',
            "wrote more than 5G to its volume mine; raise the sizeLimit of it in podTemplate.volumes",
        ),
        (NODE_IS_LOW, None),
        ("", None),
    ],
)
def test_a_pod_that_took_more_than_its_limit_is_told_from_one_whose_node_ran_short(
    message: str, excess: str | None
) -> None:
    assert own_excess({"reason": "Evicted", "message": message}) == excess


def test_only_a_kubelet_s_eviction_counts() -> None:
    message = 'Usage of EmptyDir volume "scratch" exceeds the limit "100Gi". '
    assert own_excess({"message": message}) is None
    assert own_excess({"reason": "Evicted", "message": 7}) is None
