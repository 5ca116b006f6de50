# SPDX-License-Identifier: Apache-2.0
"""A host seen from outside, again and again: metrics, a picture, a live view. See README.md."""
