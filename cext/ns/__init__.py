# SPDX-License-Identifier: Apache-2.0
"""Namespaces: a network namespace, a socket in another's, parameters of another's; mounts."""
