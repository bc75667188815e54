"""The trainer, which runs in the pods. The operator imports only its package `contract`."""
