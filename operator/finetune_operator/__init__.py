"""The FineTuneJob operator: it decides, launches, watches and reports. The training itself is in finetune_trainer."""
