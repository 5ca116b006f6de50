"""Captures: the packets of every path in one file. See README.md."""
