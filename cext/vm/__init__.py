# SPDX-License-Identifier: Apache-2.0
"""A VM's process 1: how it is started, what it may do."""
