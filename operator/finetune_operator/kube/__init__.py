"""The client protocol on a real API server."""
