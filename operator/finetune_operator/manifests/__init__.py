"""Manifests of what an attempt is made of. Pure."""
