"""The coordination of ranks: rendezvous, waiting, agreement, and the detection of slow, frozen or lost ranks.

Models and data do not belong here.
"""
