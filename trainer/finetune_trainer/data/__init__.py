"""From files to rows: reading and checking them, and the order in which every rank takes them."""
