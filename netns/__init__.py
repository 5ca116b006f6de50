# SPDX-License-Identifier: Apache-2.0
"""Kernel primitives, no policy: namespaces, cgroups, links, tc, processes, input nodes."""
