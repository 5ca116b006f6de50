# SPDX-License-Identifier: Apache-2.0
"""What a capture sees: packets that the switch and the transfer components have just decided."""
