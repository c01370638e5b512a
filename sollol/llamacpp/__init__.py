"""Supervised llama.cpp programs: how they are found, started, watched and stopped."""
