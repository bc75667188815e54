"""Decisions: from what is observed to what shall be done. Pure: no await, no clock, no I/O."""
