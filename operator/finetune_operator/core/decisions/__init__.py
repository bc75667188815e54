"""The decisions that `core/decide.py` selects from, with one module for each phase of a job's life."""
