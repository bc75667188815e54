"""Names of the files in a pod's scratch folder, by which its agent and its ranks speak to each other."""

from __future__ import annotations


def rank_status_file(rank: int) -> str:
    """Name, in the scratch folder, of the file where a rank keeps its `RankStatus`."""
    return f"rank-{rank}.status.json"


def rank_beat_file(rank: int) -> str:
    """Name, in the scratch folder, of the file that a rank touches every few seconds as long as its process runs."""
    return f"rank-{rank}.beat"


def rank_started_file(rank: int) -> str:
    """Name, in the scratch folder, of the empty file that a rank makes before it imports torch."""
    return f"rank-{rank}.started"


def rank_imported_file(rank: int) -> str:
    """Name, in the scratch folder, of the empty file that a rank makes when its libraries are imported."""
    return f"rank-{rank}.imported"


def rank_exit_file(rank: int) -> str:
    """Name, in the scratch folder, of the file where a rank leaves its `RankExit`."""
    return f"rank-{rank}.exit.json"


PROGRESS_FILE = "progress.json"
"""Where rank 0 keeps its `Progress`, in the scratch folder of its pod."""
CHECKPOINT_FILE = "checkpoint.json"
"""Where rank 0 keeps its `CheckpointReport`, in the scratch folder of its pod."""
FACTS_FILE = "facts.json"
"""`Facts`, of rank 0."""
CHECKPOINT_REQUEST_FILE = "checkpoint-request"
"""The newest request for a checkpoint, in the scratch folder of rank 0's pod; its text is the request's."""
STOP_FILE = "stop"
"""Its presence in the scratch folder asks the pod's ranks to stop at the next step."""
