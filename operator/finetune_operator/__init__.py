"""The FineTuneJob operator: it decides, launches, watches and reports; the training itself is in finetune_trainer."""
