"""Routing: the policy, the rules made of it, and the paths that packets take."""
