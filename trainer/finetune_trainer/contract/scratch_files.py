"""The names of the files in a pod's scratch folder, through which its agent and its ranks communicate."""

from __future__ import annotations


def rank_status_file(rank: int) -> str:
    """Return the name of the file in which a rank keeps its `RankStatus`."""
    return f"rank-{rank}.status.json"


def rank_beat_file(rank: int) -> str:
    """Return the name of the file that a rank touches every few seconds as long as its process runs."""
    return f"rank-{rank}.beat"


def rank_started_file(rank: int) -> str:
    """Return the name of the empty file that a rank creates before it imports torch."""
    return f"rank-{rank}.started"


def rank_imported_file(rank: int) -> str:
    """Return the name of the empty file that a rank creates when it has imported its libraries."""
    return f"rank-{rank}.imported"


def rank_exit_file(rank: int) -> str:
    """Return the name of the file in which a rank leaves its `RankExit`."""
    return f"rank-{rank}.exit.json"


PROGRESS_FILE = "progress.json"
"""The file in which rank 0 keeps its `Progress`, in the scratch folder of its pod."""
CHECKPOINT_FILE = "checkpoint.json"
"""The file in which rank 0 keeps its `CheckpointReport`, in the scratch folder of its pod."""
FACTS_FILE = "facts.json"
"""The file in which rank 0 keeps its `Facts`, in the scratch folder of its pod."""
CHECKPOINT_REQUEST_FILE = "checkpoint-request"
"""The file with the text of the newest request for a checkpoint, in the scratch folder of rank 0's pod."""
STOP_FILE = "stop"
"""The file whose presence asks the pod's ranks to stop at the next step."""
