# SPDX-License-Identifier: Apache-2.0
"""What a person types: the commands, what they ask of a daemon, what they print."""
