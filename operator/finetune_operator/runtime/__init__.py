"""The running operator: watches, queue and reconciler.

Decisions belong in `core`, manifests in `manifests`, and requests to the API server in `kube`.
"""
