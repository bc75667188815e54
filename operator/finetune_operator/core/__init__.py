"""The decisions: from what was observed to what is to be done.

All code here is pure. It contains no await, no clock and no I/O; those belong in `runtime`.
"""
