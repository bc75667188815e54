"""The GPU day: how this trainer performs on a machine with one GPU, measured in nine minutes."""
