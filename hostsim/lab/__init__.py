# SPDX-License-Identifier: Apache-2.0
"""The laboratory: hosts, and what runs in them, from Python. `from hostsim import Host`."""
