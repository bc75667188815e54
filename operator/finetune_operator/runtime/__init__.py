"""The running operator: watches, queue, reconciler and leader election. Decisions belong in `core/`."""
