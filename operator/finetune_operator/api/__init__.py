"""The API of FineTuneJobs: models, validation rules, the CRD, and the messages about invalid manifests.

Code here does no I/O and knows nothing of clusters or decisions.
"""
