"""The command of a trainer pod's container: `python3 -m finetune_trainer.agent`."""

import sys

from finetune_trainer.agent.life import main

if __name__ == "__main__":
    sys.exit(main())
