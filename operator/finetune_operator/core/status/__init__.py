"""What the status says: phases, conditions, progress, the ledger, and the events of its changes."""
