"""The model, from its base to the saved result: preparing, loading, DeepSpeed's engine, evaluation and export.

The training loop and the checkpoints do not belong here.
"""
