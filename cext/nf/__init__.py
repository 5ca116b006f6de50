"""The network functions that ship."""
