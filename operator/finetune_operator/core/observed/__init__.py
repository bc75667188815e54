"""What a reconcile has seen: the job, its children, and what pods say of themselves, made harmless."""
