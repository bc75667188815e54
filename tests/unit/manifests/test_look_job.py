"""The Job that reads an attempt's result from the workspace."""

from __future__ import annotations

from typing import Any

from support.clusters import NOW
from support.manifests import manifest

from finetune_operator.api.parse import parse
from finetune_operator.constants import LABEL_ATTEMPT, LABEL_JOB, LABEL_POLICY
from finetune_operator.core.run.retrain import next_run
from finetune_operator.core.settings import Network, Settings
from finetune_operator.manifests.children import children
from finetune_operator.manifests.look_job import look_job

GPUS = {"nodes": 4, "gpusPerNode": 8}
TEMPLATE = {
    "nodeSelector": {"gpu": "h100"},
    "tolerations": [{"operator": "Exists"}],
    "serviceAccountName": "reader",
    "securityContext": {"fsGroup": 2000},
    "labels": {"team": "legal"},
}


def made(network: Network | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the Job of the attempt and the Job that reads its result."""
    settings = Settings(image="trainer:1", network=network)
    job = parse(manifest(**{"metadata.uid": "0b5e7d2a", "spec.resources": GPUS, "spec.podTemplate": TEMPLATE}))
    run = next_run(job, 1, settings, "nonce", NOW)
    return children(job, run, settings)[-1][1], look_job(job, run, settings)


def test_it_takes_one_small_pod_without_gpus_wherever_the_claim_can_be_mounted() -> None:
    _, look = made()
    pod = look["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (look["spec"]["completions"], look["spec"]["parallelism"]) == (1, 1)
    assert container["resources"]["requests"] == {"cpu": "100m", "memory": "256Mi"}
    assert pod["tolerations"] == TEMPLATE["tolerations"]
    assert not {"nodeSelector", "affinity", "priorityClassName"} & set(pod)


def test_it_reads_the_same_claim_and_run_json_as_the_attempt_and_writes_to_neither() -> None:
    attempt, look = made()
    pod = look["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in attempt["spec"]["template"]["spec"]["volumes"]}
    assert [volumes[volume["name"]] for volume in pod["volumes"]] == pod["volumes"]
    assert all(mount["readOnly"] for mount in pod["containers"][0]["volumeMounts"])


def test_it_is_as_restricted_as_the_attempts_pods_and_runs_as_the_user_that_may_read_the_claim() -> None:
    attempt, look = made(Network())
    of_attempt, of_look = (job["spec"]["template"]["spec"] for job in (attempt, look))
    assert of_look["securityContext"] == of_attempt["securityContext"]
    assert of_look["securityContext"]["fsGroup"] == 2000
    assert of_look["serviceAccountName"] == "reader"
    assert of_look["automountServiceAccountToken"] is False
    assert of_look["containers"][0]["securityContext"] == of_attempt["containers"][0]["securityContext"]
    labels = look["spec"]["template"]["metadata"]["labels"]
    assert labels[LABEL_POLICY] == attempt["spec"]["template"]["metadata"]["labels"][LABEL_POLICY]
    assert (labels["team"], labels[LABEL_JOB], labels[LABEL_ATTEMPT]) == ("legal", "clauses", "1")


def test_it_is_gone_a_while_after_its_end_and_does_not_wait_for_ever() -> None:
    attempt, look = made()
    assert look["metadata"]["name"] == attempt["metadata"]["name"] + "-look"
    assert look["metadata"]["ownerReferences"] == attempt["metadata"]["ownerReferences"]
    assert (look["spec"]["activeDeadlineSeconds"], look["spec"]["ttlSecondsAfterFinished"]) == (600, 600)
