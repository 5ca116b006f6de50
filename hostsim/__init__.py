"""hostsim: one machine as a communications server and a multi-OS device."""

__version__ = "0.1.0"
