"""The coordination of ranks: rendezvous, waiting, agreement, and the detection of slow, frozen or lost ranks.

Whatever concerns the model or the data does not belong here.
"""
