# SPDX-License-Identifier: Apache-2.0
"""What a network function holds: the port, its rules, its counts, its AF_XDP socket."""
