"""``make bench``: what SOLLOL costs between a client and a node."""
