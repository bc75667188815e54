"""The environment of a pod, and the address of its agent's answers."""

from __future__ import annotations

STATUS_PATH = "/status"
REQUEST_PARAMETER = "checkpoint"
"""Of the status path's query: a text, percent-encoded. A new one asks rank 0's pod for a checkpoint; together with"""
NONCE_PARAMETER = "nonce"
"""the attempt's nonce, without which nothing is asked for."""
MAX_REQUEST_CHARACTERS = 256
MAX_STATUS_BYTES = 16 * 1024
MAX_TERMINATION_MESSAGE_BYTES = 4096
"""The kubelet cuts a termination message there."""
MAX_LOG_LINES = 20

ENV_RUN_CONFIG = "FINETUNE_RUN_CONFIG"
"""Path of run.json."""
ENV_WORKSPACE = "FINETUNE_WORKSPACE"
"""Folder where the job's storage is mounted; `workspace://path` is below it."""
ENV_CLAIMS = "FINETUNE_CLAIMS"
"""Folder of the other claims; `pvc://claim/path` is `<claim>/path` below it."""
ENV_SCRATCH = "FINETUNE_SCRATCH"
"""Writable folder of the pod's own, for what the agent and its ranks say to each other."""
ENV_TERMINATION_LOG = "FINETUNE_TERMINATION_LOG"
ENV_RENDEZVOUS = "FINETUNE_RENDEZVOUS"
"""host:port of rank 0's store."""
ENV_AGENT_PORT = "FINETUNE_AGENT_PORT"
ENV_GRACE = "FINETUNE_GRACE_SECONDS"
"""Seconds between SIGTERM and SIGKILL (the pod's terminationGracePeriodSeconds); 300 when absent."""
ENV_CPUS = "FINETUNE_CPUS"
"""CPUs of the pod; when absent, the limit of its cgroup."""
ENV_POD_UID = "POD_UID"
ENV_POD_IP = "POD_IP"
ENV_POD_INDEX = "JOB_COMPLETION_INDEX"
"""Set by the Job controller."""
