"""Workloads replayed over HTTP: the real gateway between a load generator and simulated nodes."""
