"""The rules for a run: whether one is needed, what it trains, where its results go, when its children are deleted."""
