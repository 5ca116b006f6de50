"""The host file: read, checked, and compared with a running host's."""
