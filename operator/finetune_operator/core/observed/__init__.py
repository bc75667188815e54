"""Views of what a reconcile has read: the job, its children, and validated reports from its pods."""
