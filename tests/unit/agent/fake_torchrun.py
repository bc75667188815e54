"""Stands in for `torch.distributed.run`: takes its arguments, starts the ranks as it does, and ends as it does.

Each rank in a session of its own; on SIGTERM, and when a rank fails, SIGTERM to all; exit code 1 for every failure. It
notes a SIGTERM in the file `torchrun-terminated` beside the ranks' pipes' folder.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in (
        "--nnodes",
        "--node-rank",
        "--nproc-per-node",
        "--master-port",
        "--max-restarts",
        "--shutdown-timeout",
    ):
        parser.add_argument(flag, type=int, required=True)
    for flag in ("--master-addr", "--rdzv-backend", "--rdzv-conf"):
        parser.add_argument(flag, required=True)
    parser.add_argument("--no-python", action="store_true", required=True)
    parser.add_argument("command")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    scratch = Path(os.environ["FINETUNE_SCRATCH"])
    ranks: dict[int, subprocess.Popen[bytes]] = {}

    def end_ranks(*_: object) -> None:
        (scratch / "torchrun-terminated").touch()
        for process in ranks.values():
            process.terminate()

    signal.signal(signal.SIGTERM, end_ranks)
    for local_rank in range(given.nproc_per_node):
        variables = {
            "RANK": given.node_rank * given.nproc_per_node + local_rank,
            "LOCAL_RANK": local_rank,
            "WORLD_SIZE": given.nnodes * given.nproc_per_node,
        }
        environment = os.environ | {name: str(value) for name, value in variables.items()}
        ranks[local_rank] = subprocess.Popen([given.command, *given.arguments], env=environment, start_new_session=True)
    by_pid = {process.pid: local_rank for local_rank, process in ranks.items()}
    failed = False
    while by_pid:
        pid, status = os.wait()
        code = os.waitstatus_to_exitcode(status)
        local_rank = by_pid.pop(pid)
        ranks.pop(local_rank).returncode = code
        if code != 0 and not failed:
            failed = True
            words = f"failed (exitcode: {code}) local_rank: {local_rank} (pid: {pid}) of binary: /bin/sh"
            sys.stderr.write(f"E1123 17:31:35 7 torch/distributed/elastic/multiprocessing/api.py:1002] {words}\n")
            for process in ranks.values():
                process.terminate()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
