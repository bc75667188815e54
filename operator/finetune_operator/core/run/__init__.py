"""Whether a run is needed, what it trains, where it stores that, and when its children go."""
