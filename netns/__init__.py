"""Kernel primitives, no policy: namespaces, cgroups, links, tc, processes, input nodes."""
