"""What the kernel decides: the classifier, its maps, and the kernel's drops."""
