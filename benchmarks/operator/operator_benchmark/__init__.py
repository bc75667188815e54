"""What the operator costs beside the floor: load, measurements, table."""
