"""The state of a training on disk: written by all ranks together, verified, and resumed from."""
