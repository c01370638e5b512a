"""``python -m sollol.bench.sim`` runs simulated nodes."""

from sollol.bench.sim.command import main

main()
