# SPDX-License-Identifier: Apache-2.0
"""Which of the machine's mounts a VM's files are made of."""

from netns.mounts import Mount, parse, with_files

INFO = rb"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:20 / /proc rw - proc proc rw
24 22 0:21 / /sys rw - sysfs sysfs rw
25 24 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw
26 22 0:23 / /home rw - ext4 /dev/vdb rw
27 26 0:24 / /home/a\040b rw - xfs /dev/vdc rw
28 22 0:25 / /run rw - tmpfs tmpfs rw
29 22 0:26 / /runner rw - tmpfs tmpfs rw
30 22 0:27 / /mnt rw master:2 propagate_from:3 - fuse.sshfs x rw
31 22 0:28 / /srv/auto rw - autofs systemd-1 rw
32 30 0:29 / /mnt/x rw - ext4 /dev/vdd rw
33 30 0:30 / /mnt rw - tmpfs none rw
"""


def test_what_another_mount_covers_is_left_out() -> None:
    points = [mount.point for mount in parse(INFO)]
    assert points.count("/mnt") == 1
    assert "/mnt/x" not in points
    assert Mount("/mnt", "tmpfs") in parse(INFO)


def test_files_without_what_is_the_vms_own_or_the_kernels() -> None:
    own = ("/run", "/dev", "/proc", "/sys")
    assert with_files(INFO, own) == ("/", "/home", "/home/a b", "/mnt", "/runner")
