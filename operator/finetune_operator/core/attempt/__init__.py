"""The rules for one attempt: why it failed, what follows, its deadlines, and when it has succeeded.

Rules that concern several attempts of a run belong in `core/run`.
"""
