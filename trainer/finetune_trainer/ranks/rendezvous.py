"""The store at which the ranks of a job meet, which rank 0's pod runs in a process of its own.

    python -m finetune_trainer.ranks.rendezvous HOST:PORT

The store does not run in rank 0, so that the others can detect from its content when rank 0 is frozen.
"""

from __future__ import annotations

import signal
import socket
import sys
import time
from datetime import timedelta

CONNECT_SECONDS = 2.0
RETRY_SECONDS = (0.2, 2.0)
"""The first and the longest pause between two attempts to reach the store, in seconds: a thousand ranks may try at
once."""
REPORT_SECONDS = 10.0
WITHOUT_LIMIT = timedelta(days=1)


def wait_for_store(address: tuple[str, int]) -> None:
    """Wait until the store's port answers; a host name that resolves does not mean that it does.

    There is no time limit: the operator decides how long is too long, and a stop request to the pod ends this process.
    """
    host, port = address
    started = reported = time.monotonic()
    pause, longest = RETRY_SECONDS
    while True:
        try:
            socket.create_connection(address, timeout=CONNECT_SECONDS).close()
        except OSError as error:
            now = time.monotonic()
            if now - reported >= REPORT_SECONDS:
                reported = now
                sys.stderr.write(f"waiting for rank 0 at {host}:{port} for {now - started:.0f} s: {error}\n")
            time.sleep(pause)
            pause = min(2 * pause, longest)
        else:
            return


def main() -> None:
    """Run the store until this process is killed."""
    from torch.distributed import TCPStore

    host, _, port = sys.argv[1].rpartition(":")
    store = TCPStore(host, int(port), is_master=True, wait_for_workers=False, timeout=WITHOUT_LIMIT)
    while store:
        signal.pause()


if __name__ == "__main__":
    main()
