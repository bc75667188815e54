"""The client protocol in memory, with pods as local processes or scripted by a test."""
