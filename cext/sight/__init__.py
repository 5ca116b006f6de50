"""What a capture sees: packets that the switch and the transfer components have just decided."""
