# SPDX-License-Identifier: Apache-2.0
"""Which flow is this frame?"""
