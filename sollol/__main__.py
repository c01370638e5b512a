"""``python -m sollol`` is the ``sollol`` command."""

from sollol.cli.main import main

main()
