#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Provisions the Vagrant machine: the packages that scripts/run and scripts/test want (the one list,
# scripts/packages), uinput at every boot, and the project's build. Runs as root; twice is harmless.
# The argument is the project's directory.
# shellcheck source=scripts/lib.sh
. "${1:-/vagrant}/scripts/lib.sh"

printf 'uinput\nevdev\n' >/etc/modules-load.d/hostsim.conf
modprobe -a uinput evdev ||
    fail uinput "this kernel has none; take a box with the package linux-image-amd64"
setup build use test
say "hostsim is in $VENV/bin; try: sudo $ROOT/scripts/run"
