"""The agent, the first process of a pod: it starts the ranks, reports their status and writes the termination message.

It does not train, and never imports torch.
"""
