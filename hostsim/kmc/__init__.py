"""The kernel mode controller: which OS is foreground, and the equipment that follows it."""
