"""The sides of the comparison of speed: processes that read lines of JSON, train, and answer with figures."""
