"""Images of root file systems: kept by name, made by `hostsim image`."""
