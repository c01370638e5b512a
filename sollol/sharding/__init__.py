"""One model over several machines: which file it is, what it needs, and how it is split."""
