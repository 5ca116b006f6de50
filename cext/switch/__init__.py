# SPDX-License-Identifier: Apache-2.0
"""What the kernel decides: the classifier, its maps, and the kernel's drops."""
