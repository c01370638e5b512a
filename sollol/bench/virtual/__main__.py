"""Run ``python -m sollol.bench.virtual``."""

from sollol.bench.virtual.command import main

main()
