"""A simulated Ollama node; ``node.py`` is where to begin, ``python -m sollol.bench.sim`` runs some."""
