"""A VM's process 1: how it is started, what it may do."""
