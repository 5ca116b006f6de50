"""Namespaces: a network namespace, a socket in another's, parameters of another's; mounts."""
