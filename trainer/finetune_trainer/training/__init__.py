"""The training itself: the loop, its steps, and what it reports."""
