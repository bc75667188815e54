"""The environment variables of a pod, and the address of its agent's HTTP server."""

from __future__ import annotations

STATUS_PATH = "/status"
REQUEST_PARAMETER = "checkpoint"
"""The query parameter with which the status path is asked for a checkpoint; only rank 0's pod acts on it. Its value is
a percent-encoded text, and each new text is a new request."""
NONCE_PARAMETER = "nonce"
"""The query parameter with the attempt's nonce, without which a request for a checkpoint is ignored."""
MAX_REQUEST_CHARACTERS = 256
MAX_STATUS_BYTES = 16 * 1024
MAX_TERMINATION_MESSAGE_BYTES = 4096
"""The length at which the kubelet cuts a termination message."""
MAX_LOG_LINES = 20

ENV_RUN_CONFIG = "FINETUNE_RUN_CONFIG"
"""The path of run.json."""
ENV_WORKSPACE = "FINETUNE_WORKSPACE"
"""The folder where the job's storage is mounted; `workspace://path` is below it."""
ENV_CLAIMS = "FINETUNE_CLAIMS"
"""The folder where the other claims are mounted; `pvc://claim/path` is `claim/path` below it."""
ENV_SCRATCH = "FINETUNE_SCRATCH"
"""A writable folder of the pod alone, through which the agent and its ranks communicate."""
ENV_TERMINATION_LOG = "FINETUNE_TERMINATION_LOG"
ENV_RENDEZVOUS = "FINETUNE_RENDEZVOUS"
"""The host:port of rank 0's store."""
ENV_AGENT_PORT = "FINETUNE_AGENT_PORT"
ENV_GRACE = "FINETUNE_GRACE_SECONDS"
"""Seconds between SIGTERM and SIGKILL (the pod's terminationGracePeriodSeconds); 300 if absent."""
ENV_CPUS = "FINETUNE_CPUS"
"""The number of CPUs of the pod; if absent, the limit of its cgroup applies."""
ENV_POD_UID = "POD_UID"
ENV_POD_IP = "POD_IP"
ENV_POD_INDEX = "JOB_COMPLETION_INDEX"
"""The pod's index, which the Job controller sets."""
