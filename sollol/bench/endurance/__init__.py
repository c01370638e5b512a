"""What a gateway bears: far too many requests, callers who hold on to it, and very many requests."""
