"""Builds the NetworkPolicy of a FineTuneJob's pods, which all its attempts share.

It denies everything except traffic between the job's own pods, to the DNS, from the operator to the agents, and the
egress that the operator's configuration lists. A pod's label names its policy. So a policy that was created under an
older configuration, and is never changed, allows nothing to pods that came later.
"""

from __future__ import annotations

import json
from typing import Any

from finetune_operator import constants
from finetune_operator.api.v1alpha1 import FineTuneJob
from finetune_operator.core.run.naming import policy_name
from finetune_operator.core.settings import Network, Settings
from finetune_operator.manifests.owner import owner_of

DNS_PORT = 53


def network_policy(job: FineTuneJob, settings: Settings) -> dict[str, Any] | None:
    """Return the NetworkPolicy; None if the operator's configuration wants none."""
    if settings.network is None:
        return None
    content = json.dumps(_spec("", settings.network, settings.agent_port), sort_keys=True)
    name = policy_name(job.metadata.name, job.metadata.uid, content)
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": name,
            "namespace": job.metadata.namespace,
            "labels": {constants.LABEL_MANAGED_BY: constants.MANAGER, constants.LABEL_JOB: job.metadata.name},
            "ownerReferences": [owner_of(job)],
        },
        "spec": _spec(name, settings.network, settings.agent_port),
    }


def _spec(name: str, network: Network, agent_port: int) -> dict[str, Any]:
    pods = {"matchLabels": {constants.LABEL_POLICY: name}}
    agent: dict[str, Any] = {"ports": [{"protocol": "TCP", "port": agent_port}]}
    if network.operator is not None:
        agent["from"] = [dict(network.operator)]
    return {
        "podSelector": pods,
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [{"podSelector": pods}]}, agent],
        "egress": [
            {"to": [{"podSelector": pods}]},
            {"ports": [{"protocol": protocol, "port": DNS_PORT} for protocol in ("UDP", "TCP")]},
            *(dict(rule) for rule in network.egress),
        ],
    }
