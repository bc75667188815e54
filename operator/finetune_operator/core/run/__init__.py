"""The rules of a run: whether one is needed, what it trains, where it stores that, and when its children go."""
