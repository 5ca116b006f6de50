"""Network namespaces: one's own, a socket in another's, parameters of another's."""
