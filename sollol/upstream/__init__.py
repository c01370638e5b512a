"""Everything that opens a connection to a node."""
