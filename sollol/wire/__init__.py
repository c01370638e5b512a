"""What travels: bodies, names, records and errors of every dialect. Pure, no I/O."""
