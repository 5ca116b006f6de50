# SPDX-License-Identifier: Apache-2.0
"""Captures: the packets of every path in one file. See README.md."""
