"""The training loop, its optimizer steps, and the reports about them.

What concerns the model itself belongs to the package `model`, and checkpoints to `checkpoint`.
"""
