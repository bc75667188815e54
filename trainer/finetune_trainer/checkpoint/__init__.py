"""The checkpoints of a run, which all ranks write together, verify and resume from.

The saved result does not belong here; the package `model` writes it.
"""
