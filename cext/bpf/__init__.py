# SPDX-License-Identifier: Apache-2.0
"""BPF objects: loaded, attached, read, found again; what this kernel's BPF can do."""
