# SPDX-License-Identifier: Apache-2.0
"""The kernel mode controller: which OS is foreground, and the equipment that follows it."""
