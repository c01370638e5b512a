"""Nodes, gateway and callers on a virtual clock, in one process: hours of traffic in seconds."""
