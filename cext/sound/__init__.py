"""Sound: the pump between the OSes' loops and the machine's card."""
