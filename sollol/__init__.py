"""SOLLOL: one port in front of every GPU you own."""

__version__ = "0.1.0"
