"""Data from files to rows: reading, validation, splitting, and the order in which the ranks process the rows.

Tokens and pixels do not belong here; the package `tasks` makes them.
"""
