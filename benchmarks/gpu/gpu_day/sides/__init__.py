"""The sides of the speed comparison: processes that read lines of JSON, train, and answer with figures."""
