"""What the benchmarks share: children on chosen cores, the machine, figures, limits."""
