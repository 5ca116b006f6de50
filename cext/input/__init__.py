"""What moves at a flip: the forwarder, the revoke, the agent of an OS."""
