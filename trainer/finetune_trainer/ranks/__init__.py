"""What ranks do together: meeting, waiting, agreeing, and noticing that another one is slow, frozen or gone."""
