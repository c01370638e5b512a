"""A request's way through the gateway; ``forward.py`` is where to begin reading."""
