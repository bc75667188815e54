"""What a reconcile has observed: the job, its children, and what pods report, validated.

Requests to the API server and to agents belong in `runtime/observer.py`.
"""
