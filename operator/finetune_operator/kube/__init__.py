"""The implementation of `protocol.Cluster` on a real API server. Decisions and manifests do not belong here."""
