"""The running operator: watches, queue, reconciler."""
