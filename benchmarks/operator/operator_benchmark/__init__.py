"""The operator's cost compared with the floor, its pods without an operator: load, measurements, table."""
