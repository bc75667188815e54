"""The exit codes of the command line."""

DONE = 0
FAILED = 1
INVALID = 2
"""The user can correct the cause: the command, the manifest or the data."""
INTERRUPTED, BROKEN_PIPE = 130, 141
"""The exit codes that a shell reports for a command ended by SIGINT or SIGPIPE."""
