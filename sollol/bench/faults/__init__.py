"""Nodes that fail: what a TCP proxy does to their answers, and scripts of faults to measure under."""
