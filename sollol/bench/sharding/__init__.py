"""What a model over several machines costs and takes, measured on real llama.cpp programs."""
