"""The first process of a pod: it starts the ranks, answers for the pod, and says how it ended. Never imports torch."""
