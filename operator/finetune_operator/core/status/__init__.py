"""What the status says: phases, conditions, progress, the ledger, and the events of its changes.

The decisions that lead to a status belong in `core/decisions`.
"""
