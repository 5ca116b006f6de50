# SPDX-License-Identifier: Apache-2.0
"""Routing: the policy, the rules made of it, and the paths that packets take."""
