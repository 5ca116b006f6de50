# SPDX-License-Identifier: Apache-2.0
"""The host file: read, checked, and compared with a running host's."""
