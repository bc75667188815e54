"""What the command line ends with."""

DONE = 0
FAILED = 1
INVALID = 2
"""Something that the user can mend: the command, the manifest, the data."""
INTERRUPTED, BROKEN_PIPE = 130, 141
"""As a shell says it of a command that SIGINT or SIGPIPE has ended."""
