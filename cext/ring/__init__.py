# SPDX-License-Identifier: Apache-2.0
"""What two VMs share: packet memory, rings of descriptors, channels, bells."""
