"""The ``sollol`` command: ``main.py`` lists the commands, each is a file of its own."""
