"""Packet network functions: their processes, rings, settings and books."""
