"""Nodes that an OS is given: whose they are. No device is behind this one."""

import os
import stat
from collections.abc import Callable

import pytest

from hostsim.kmc.osnodes import Node, OsNodes
from hostsim.vm import Vm

pytestmark = pytest.mark.root

NUMBER = os.makedev(13, 95)


def test_a_node_is_for_the_input_group_to_read_and_write(make_vm: Callable[..., Vm]) -> None:
    vm = make_vm(os=True)
    nodes = OsNodes(vm)
    before = os.umask(0o022)  # a daemon's
    try:
        nodes.give(Node("event31", NUMBER, "/devices/virtual/input/input31/event31"))
    finally:
        os.umask(before)
    found = os.stat("event31", dir_fd=vm.input_fd)
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_rdev) == (0o660, 0, NUMBER)
    assert vm.run(["stat", "-c", "%G", "/dev/input/event31"]).stdout == b"input\n"
    nodes.withdraw("event31")
    nodes.settle()
    assert os.listdir(f"/proc/{vm.pid}/root/dev/input") == []
    nodes.close()
