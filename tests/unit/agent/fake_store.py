"""A stand-in for `finetune_trainer.ranks.rendezvous`, which imports torch.

It ends when a test writes the file `end-store`.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

ORDER = Path(os.environ["FINETUNE_SCRATCH"]) / "end-store"

print("store at", sys.argv[1], file=sys.stderr)
while not ORDER.exists():
    time.sleep(0.02)
print("the store has reasons", file=sys.stderr, flush=True)
sys.exit(int(ORDER.read_text()))
