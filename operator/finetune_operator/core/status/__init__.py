"""The content of the status: phases, conditions, progress and the ledger, and the events for its changes."""
