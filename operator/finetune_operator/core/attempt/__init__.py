"""One launch of a run's pods: why it failed, what follows, how long it may take, when it is a success."""
