"""The command line `finetune`."""
