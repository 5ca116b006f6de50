# SPDX-License-Identifier: Apache-2.0
"""What moves at a flip: the forwarder, the revoke, the agent of an OS."""
