"""Simulated nodes and, with them, benchmarks of the gateway."""
