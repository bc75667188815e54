"""The rules of a run: whether one is needed, what it trains, where it writes, and when its children are deleted.

Rules that concern a single attempt belong in `core/attempt`.
"""
