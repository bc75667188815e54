"""Reloads saved results as their users would, in a new process with another seed, and compares the logits.

`python reload_results.py FOLDER CASE...` prints one JSON object: for each case the greatest absolute differences of the
logits.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from trainer.export_ranks import BATCH_FILE, LOGITS_FILE
from trainer.fixtures_data import workspace

from finetune_trainer.contract import RunConfig
from finetune_trainer.tasks import task_of


@torch.no_grad()
def differences(config: RunConfig, folder: Path) -> dict[str, float]:
    """Return the greatest difference of the logits from those of the trained model, for each way to load.

    The value for `start` shows how far the training moved the model.
    """
    torch.manual_seed(999)
    paths = workspace(folder)
    auto_class = task_of(config.task).auto_class
    run, output = paths.run(config), paths.output(config)
    trained, batch = torch.load(run / LOGITS_FILE), torch.load(run / BATCH_FILE)
    loaded = {"start": auto_class.from_pretrained(run / "start")}
    if config.lora is None:
        loaded["result"] = auto_class.from_pretrained(output)
    else:
        loaded["result"] = PeftModel.from_pretrained(auto_class.from_pretrained(run / "start"), output)
        loaded["merged"] = auto_class.from_pretrained(output / "merged")
    return {way: float((model.eval()(**batch).logits - trained).abs().max()) for way, model in loaded.items()}


def main() -> None:
    folder = Path(sys.argv[1])
    configs = {name: RunConfig.model_validate_json((folder / f"{name}.json").read_text()) for name in sys.argv[2:]}
    sys.stdout.write(json.dumps({name: differences(config, folder) for name, config in configs.items()}))


if __name__ == "__main__":
    main()
