"""The implementation of `protocol.Cluster` in memory, with pods as processes on this machine.

Code for a real API server belongs in `kube/`.
"""
