"""The command line `finetune`, with one module for each command. No other room imports it."""
