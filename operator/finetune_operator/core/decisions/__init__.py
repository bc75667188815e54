"""The decisions that `core/decide.py` chooses from: one file for each stage of a job's life.

The rules on which they are based belong in `core/run`, `core/attempt` and `core/status`.
"""
