# SPDX-License-Identifier: Apache-2.0
"""Measurements, each against a peer that does the same: `hostsim bench NAME`.

A bench is a module with `add_arguments(parser)` and `run(options) -> Json`; see `common`.
"""
