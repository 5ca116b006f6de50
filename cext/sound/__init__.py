# SPDX-License-Identifier: Apache-2.0
"""Sound: the pump between the OSes' loops and the machine's card."""
