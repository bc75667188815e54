"""What `core/decide.py` chooses from: one file for each part of a job's life."""
