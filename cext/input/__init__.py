# SPDX-License-Identifier: Apache-2.0
"""What moves at a flip, and what asks for it: hotkeys, the forwarder, the revoke, the agent."""
