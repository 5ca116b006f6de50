# SPDX-License-Identifier: Apache-2.0
"""A VM: process 1 in namespaces of its own, a named network namespace, a cgroup, a device list.

Life: made -> `start` -> running -> `stop`, and so on again. A VM whose process 1 has ended (killed,
or SIGTERM from inside) is not alive, and still holds its names until `stop`. `start` and `stop`
block; different VMs may start and stop in different threads at the same time.
"""

import contextlib
import errno
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from cext.vm import spawn
from cext.vm.tree import open_beneath
from hostsim import boot, etc, fence, idranges, ownroot
from hostsim.errors import HostsimError, reason
from hostsim.model import RootSpec, VmSpec
from netns import namespace, process, tree
from netns.cgroup import Cgroup, unsupported
from netns.devices import DeviceList
from netns.journal import Journal
from netns.populated import Populated
from netns.process import Process, Stream, Target
from netns.sockets import SocketBudget

TAKEN = "another host, or somebody by hand, has made it: choose another name"
"""What to do about a name that is there already."""
SOON = 1.0  # seconds for a process 1 that has given up its namespaces to have ended
STOP_DEADLINE = 5.0  # seconds for everything in a VM to end after SIGKILL


class Vm:
    """A VM or, if its spec says so, an endpoint. Owns all it makes, until `stop`.

    Every descriptor here belongs to the VM; nobody else closes it. It is -1 while the VM does not
    run.
    """

    def __init__(self, host: str, spec: VmSpec, index: int) -> None:
        self.spec = spec
        self.host = host
        self.index = index
        """1 and up, unique within the host."""
        self.netns = f"hs-{host}-{spec.name}"
        """The name in /run/netns."""
        self.netns_fd = -1
        """The network namespace."""
        self.pid = -1
        """Process 1, as the machine numbers it; -1 while the VM does not run."""
        self.pidfd = -1
        """Process 1. Readable only after every process in the VM has been reaped."""
        self.life_fd = -1
        """Readable as soon as `ends` is to be asked, until it is: our end of a pipe that process 1
        holds, which reports POLLERR once that starts to exit; of an OS that boots, its group. A
        process in the VM that keeps the pipe open delays only this early notice."""
        self._populated: Populated | None = None
        self.mac = ""
        """The MAC address of eth0; the switch sets this and the next two."""
        self.eth0 = 0
        """The interface number of eth0, in the VM."""
        self.port = 0
        """The interface number of eth0's port, in the switch's namespace."""
        self.names = ""
        """The lines of its /etc/hosts about this host."""
        self.devices = DeviceList(own=spec.os is not None)
        self.limits = fence.limits(spec)
        """What holds for it, given or not."""
        self.sockets = SocketBudget(fence.sockets(self.limits))
        """What it may hold of the kernel's memory by its sockets."""
        self.owner = 0
        """The id outside of its user 0; 0: the machine's ids, one to one."""
        self.nests = spec.root is not None and spec.root.containers
        """Whether its programs may make user namespaces."""
        self._group = Cgroup(f"hs-{host}/{spec.name}", self.limits, divided=spec.boots)
        self.booting: boot.Booting | None = None
        """The console of an OS that boots, and the socket of its word; while it runs."""
        self.systemd = False
        """Whether its process 1 is systemd."""
        self.ready = not spec.boots
        """Whether its OS is up; who waits for that says so."""
        self._held: list[Callable[[], None]] = []
        """What gives back what it holds of the machine's while it runs: ids, locks."""
        self._given_up = False
        self._processes: set[Process] = set()
        self._directories: dict[str, int] = {}
        self._named = False

    @property
    def cgroup(self) -> Path:
        """The v2 directory."""
        return self._group.path

    @property
    def cgroups(self) -> tuple[Path, ...]:
        """Every directory whose limits hold for the VM, the v2 one first."""
        return (self._group.path, *self._group.v1)

    @property
    def cgroup_fd(self) -> int:
        """The v2 directory's descriptor."""
        return self._group.fd

    @property
    def run_fd(self) -> int:
        """The VM's own /run/hostsim, O_PATH: bind a socket through /proc/self/fd/N/NAME."""
        return self._directory("run/hostsim")

    @property
    def dev_fd(self) -> int:
        """The VM's own /dev, O_PATH."""
        return self._directory("dev")

    @property
    def top_run_fd(self) -> int:
        """The VM's own /run, O_PATH."""
        return self._directory("run")

    @property
    def input_fd(self) -> int:
        """The VM's own /dev/input, O_PATH."""
        return self._directory("dev/input")

    @property
    def udev_fd(self) -> int:
        """The VM's own /run/udev, O_PATH."""
        return self._directory("run/udev")

    @property
    def input_class_fd(self) -> int:
        """The VM's own /sys/class/input, O_PATH: which input devices libudev lists there."""
        return self._directory("sys/class/input")

    @property
    def alive(self) -> bool:
        """Whether process 1 runs. It cannot end before our own children in the VM are reaped: who
        starts a program watches it and polls it, and this does too."""
        for one in self._processes:
            one.poll()
        return self.runs

    @property
    def runs(self) -> bool:
        """Whether process 1 runs, by a look that changes nothing: a child of the daemon may take
        it, and it may tell of an end a moment late (see `alive`)."""
        return self.pidfd >= 0 and not process.wait_end(self.pidfd, 0)

    def ends(self) -> bool:
        """Whether process 1 is ending or has ended, once `life_fd` is readable: of an OS that
        boots, whether all has ended but what others started in it. Raises OSError."""
        return self._populated is None or not self._populated.ask()

    def ended(self) -> int | None:
        """How process 1 ended: its exit status, or -N if signal N ended it; None while it runs,
        before `start` and after `stop`."""
        if self.pidfd < 0:
            return None
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        found = os.waitid(os.P_PIDFD, self.pidfd, flags)
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def another(self) -> "Vm":
        """One that has the same place in the host and on the switch, and has made nothing yet."""
        other = Vm(self.host, self.spec, self.index)
        other.mac, other.eth0, other.port = self.mac, self.eth0, self.port
        other.names = self.names
        return other

    def trade(self, other: "Vm") -> None:
        """Have all that `other`, of the same place, has made, and it what this one has: whoever
        knows one of the two has the other's life from here on. No thread is at work on either."""
        self.__dict__, other.__dict__ = other.__dict__, self.__dict__

    def part(self) -> "Vm":
        """From here on this one has made nothing; what it had is the answer's, which a thread may
        stop."""
        former = self.another()
        self.trade(former)
        return former

    def unsupported_limits(self) -> tuple[str, ...]:
        """The controllers its limits need and this machine lacks, in both cgroup trees."""
        return unsupported(self.limits)

    def start(self, journal: Journal) -> None:
        """Make and start it; everything is in the journal first. Raises HostsimError, OSError;
        nothing is left then."""
        try:
            self._group.refuse_if_there()
            directories = self._group.directories
            journal.add_all("cgroup", [{"path": str(one)} for one in directories])
            self._group.make()
            self.devices.attach(self._group.fd)
            self.sockets.attach(self._group.fd)
            self._spawn()
            self.netns_fd = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            journal.add("netns", name=self.netns, inode=namespace.identity(self.netns_fd))
            namespace.add(self.netns, self.pid)
            self._named = True
            if self.spec.files == "private" and self.spec.root is None:
                etc.give(self.pid, self.netns, self.names)
        except FileExistsError as error:
            self.stop()
            raise HostsimError(f"VM {self.spec.name}", reason(error), TAKEN) from error
        except OSError as error:
            early = self._ended_early()
            self.stop()
            what = f"VM {self.spec.name}"
            raise early or HostsimError(what, reason(error), self._hint(error)) from error
        except HostsimError:
            self.stop()
            raise

    def _ended_early(self) -> HostsimError | None:
        """Why a start failed, if that is that its root's init ended in the middle of it."""
        if self.booting is None or self.pidfd < 0 or not process.wait_end(self.pidfd, SOON):
            return None
        return boot.not_up(self.spec.name, boot.ENDED, boot.last_words(self.booting.master))

    def _hint(self, error: OSError) -> str:
        """What to do about a start that failed."""
        if isinstance(error, spawn.SpawnError) and error.step == "exec" and self.spec.boots:
            return f"the root has no {boot.INIT} that this machine can run"
        if isinstance(error, spawn.SpawnError) and error.step == spawn.OWNERS:
            return (
                "this kernel maps no owners on that file system: an image as root (mkfs.erofs), "
                'or users = "machine"'
            )
        step = error.step if isinstance(error, spawn.SpawnError) else ""
        if step == spawn.FENCE and error.errno == errno.EPERM:
            return "the kernel makes none in a chroot; a container, or pivot_root, will do"
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            return "in a container, cgroups have to be writable; see hostsim check"
        return "" if self.spec.memory is None else "its memory limit may be too small"

    def _spawn(self) -> None:
        """Process 1. Raises HostsimError, OSError."""
        base, size = fence.base(), fence.size(self.spec)
        with contextlib.ExitStack() as stack:
            root: spawn.Root | spawn.Own | None
            if self.spec.root is None:
                root = fence.root(self.spec)
            else:
                root = stack.enter_context(self._own_root(self.spec.root, size))
            life, booting = -1, None
            if self.spec.boots:
                self.booting = boot.Booting(self.host, self.spec.name)
                booting = self.booting.spec(self.owner, size)
            else:
                life, self.life_fd = os.pipe2(os.O_CLOEXEC)
                stack.callback(os.close, life)
            self.pid, self.pidfd = spawn.spawn_vm(
                self.spec.name,
                base.fd,
                base.init_fd,
                self._group.fd,
                life,
                self._group.join,
                base.sealed,
                base.masked,
                size,
                root,
                booting,
                self.owner,
                nests=self.nests,
            )
        process.offer(self.pid)
        if self.spec.boots:
            self.systemd = boot.is_systemd(self.pid)
            self._populated = Populated(self._group.fd)
            self.life_fd = self._populated.fileno()

    def _own_root(self, root: RootSpec, size: str) -> contextlib.AbstractContextManager[spawn.Own]:
        """Take what the root needs of the machine, until `stop`. Raises HostsimError, OSError."""
        source = ownroot.find(self.spec.name, root)
        ownroot.load_modules(source.kind)
        self._hold_fd(ownroot.hold(source))
        if root.keep is not None:
            self._hold_fd(ownroot.claim_keep(self.spec.name, root.keep, source))
        if root.users == "own":
            ids = idranges.take(self._group.path)
            self._held.append(ids.close)
            self.owner = ids.base
        self._group.divide(self.owner)
        return ownroot.opened(self.spec, source, size, self.netns, self.names)

    def _hold_fd(self, fd: int) -> None:
        self._held.append(partial(os.close, fd))

    def popen(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        program: int = -1,
    ) -> Process:
        """Start a program in the VM: all its namespaces, cgroups, capabilities; see
        `netns.process.start`. It ends with the VM at the latest, and is closed then. Raises
        HostsimError if it cannot start."""
        self._processes = {one for one in self._processes if not one.closed}
        if not self.alive:
            raise HostsimError(f"VM {self.spec.name}", "it does not run")
        group = self._group
        null = fence.base().null_fd
        target = Target(
            self.pidfd,
            group.path,
            group.programs_fd,
            group.v1,
            tuple(group.join),
            self.nests,
            null,
        )
        try:
            started = process.start(
                target,
                argv,
                cwd=cwd,
                env=env,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                program=program,
            )
        except OSError as error:
            raise HostsimError(
                f"{argv[0]} in VM {self.spec.name}", str(error.strerror or error)
            ) from error
        self._processes.add(started)
        return started

    def run(
        self, argv: Sequence[str], *, timeout: float = 30.0, stdin: Stream = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program to its end, with what it wrote. Raises HostsimError, and TimeoutError after
        `timeout` seconds, with the program killed."""
        out, err = os.memfd_create("stdout"), os.memfd_create("stderr")
        try:
            started = self.popen(argv, stdin=stdin, stdout=out, stderr=err)
            try:
                code = started.wait(timeout)
            finally:
                started.close()
            os.lseek(out, 0, os.SEEK_SET)
            os.lseek(err, 0, os.SEEK_SET)
            with os.fdopen(os.dup(out), "rb") as o, os.fdopen(os.dup(err), "rb") as e:
                return subprocess.CompletedProcess(list(argv), code, o.read(), e.read())
        finally:
            os.close(out)
            os.close(err)

    def sysctl(self, values: dict[str, str]) -> None:
        """Set kernel parameters of its network namespace from outside, named as for sysctl(8), in
        one go. Raises OSError that names the parameter."""
        namespace.write_sysctls(self.netns_fd, values)

    @property
    def halts(self) -> bool:
        """Whether `stop` lets it end itself first: an OS that is up, and that nobody has killed."""
        return self.spec.boots and self.ready and not self._given_up

    def kill(self) -> None:
        """SIGKILL everything in it, and do not wait: `stop` takes the rest down. For taking many
        down, kill all of them first."""
        self._given_up = True
        if self.pidfd >= 0:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self._group.kill()

    def stop(self) -> None:
        """Kill everything in it and remove all it made. Twice is harmless. Raises HostsimError
        if a process does not end within STOP_DEADLINE; the rest is removed all the same."""
        late = False
        if self.pidfd >= 0:
            if self.halts and self.alive:
                boot.halt(self.pidfd, self._group.path, self.systemd)
            if self.alive:
                self.kill()
            # Process 1 ends only after our own children in the VM have been reaped.
            for one in self._processes:
                one.close(STOP_DEADLINE)
            self._processes.clear()
            late = not process.wait_end(self.pidfd, STOP_DEADLINE)
            os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
            os.close(self.pidfd)
            self.pidfd = self.pid = -1
        if self._named:
            namespace.remove(self.netns, namespace.identity(self.netns_fd))
            self._named = False
        if self._populated is not None:
            self._populated.close()
            self._populated, self.life_fd = None, -1
        for fd in (self.netns_fd, self.life_fd, *self._directories.values()):
            if fd >= 0:
                os.close(fd)
        self.netns_fd = self.life_fd = -1
        self._directories.clear()
        self._group.remove()
        self.devices.close()
        self.sockets.close()
        while self._held:
            self._held.pop()()
        if self.booting is not None:
            self.booting.close()
            self.booting = None
        self.owner = 0
        self.ready, self._given_up = not self.spec.boots, False
        if late:
            raise HostsimError(
                f"VM {self.spec.name}", f"process 1 did not end within {STOP_DEADLINE:g} s"
            )

    def _directory(self, path: str) -> int:
        """A directory on a mount of the VM's own, found below the VM's root through no link. Raises
        OSError."""
        if path not in self._directories:
            flags = os.O_PATH | os.O_DIRECTORY
            with tree.root(self.pid) as root:
                self._directories[path] = open_beneath(root, path, flags, across=True)
        return self._directories[path]
