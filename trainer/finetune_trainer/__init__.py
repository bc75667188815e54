"""The trainer: what runs in the pods. `contract` is all that the operator knows of it."""
