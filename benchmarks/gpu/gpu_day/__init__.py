"""The GPU day: what a machine with one GPU makes of this trainer, in nine minutes."""
