"""One small file for each way of choosing among nodes that have a free slot."""
