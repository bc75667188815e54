"""Helpers that several tiers of tests share; what only one tier needs belongs into its own folder."""
