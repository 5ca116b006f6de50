# SPDX-License-Identifier: Apache-2.0
"""Images of root file systems: kept by name, made by `hostsim image`."""
