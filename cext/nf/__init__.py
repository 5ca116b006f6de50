# SPDX-License-Identifier: Apache-2.0
"""The network functions that ship."""
