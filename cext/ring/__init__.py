"""What two VMs share: packet memory, rings of descriptors, channels, bells."""
