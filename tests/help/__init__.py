# SPDX-License-Identifier: Apache-2.0
"""What tests share. A test says `from help.net import Net`: pyproject.toml puts tests/ on the path
of pytest and of mypy. The name is no clash with the builtin, which is no module.

waiting   the one way to wait for a condition
cli       the command line as a user calls it, and a host that is up for a while
net       a switch, VMs and a data plane without a daemon
chain     the same with packet network functions
rig       a multi-OS device: OSes, a KMC, and devices made through uinput
terminal  a person at a terminal
ff        the hardware's side of force feedback
cbpf      runs socket filters and system call filters
programs/ what tests run as processes of their own, by path, mostly in a VM
functions/ network functions of a user's own
"""
