"""The HTTP side: routes, dialects, and the server that carries them."""
