# SPDX-License-Identifier: Apache-2.0
"""Run a command as root in the test VM: a stock distribution kernel with uinput, under QEMU.

    scripts/testvm [--deadline SECONDS] [--memory MIB] [--cpus N] [--display] [--audio] [--console]
                   [--] CMD...

The VM sees this machine's file system at the same paths. The project's directory (with .venv) is
writable; whatever the command writes elsewhere stays in the VM's memory and is gone afterwards.
One CMD word is a shell command line, several are a program and its arguments. stdin is empty;
stdout, stderr and exit status are the command's own. Exit status 124: not done at the deadline;
125: the VM did not come up, or died.

The initial file system is virtme-ng's (`virtme-run --save-initramfs`: busybox, and the kernel's
9p and virtio modules), followed by an /init of our own, which replaces virtme-ng's: the boot then
takes seconds instead of half a minute, most of which goes into udev probing hardware that no
test needs. KVM is taken only if this kernel boots under it (see `kvm_works`).
"""

import argparse
import contextlib
import json
import os
import re
import secrets
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from testvmdesk import Desk

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".testvm"
PROBE_DEADLINE = 6.0  # seconds for a guest kernel to reach its first program under KVM
MONITOR_DEADLINE = 30.0  # seconds for QEMU to answer
PROBE_WORD = "testvm-probe-booted"
MACHINE = "-machine q35 -nodefaults -no-user-config -display none -no-reboot"
ACCELERATORS = (
    # Without AVX and its state to save, an emulated system call or memcpy costs half as much.
    "-accel tcg,thread=multi,tb-size=512 -cpu max,la57=off,-avx,-avx2,-xsave",
    "-accel kvm -cpu host",
)
CPUS = (1, 2)
"""Emulated, and with KVM. QEMU before 8.1 now and then misses that one emulated processor has
patched the kernel's code (static keys, whenever a BPF program is attached) while another was about
to run it: that one then runs the old code for ever."""
SHARING = "security_model=none,multidevs=remap"
# Emulation pays for every one of the protections, and a test VM has no secrets.
KERNEL_OPTIONS = (
    "console=ttyS0 panic=-1 loglevel=5 rdinit=/init mitigations=off audit=0 apparmor=0 nokaslr"
    " tsc=reliable no_timer_check cryptomgr.notests init_on_alloc=0"
)

# Runs in the initial file system's busybox. The root is this machine's, with the VM's memory on
# top; the project is written through. `exec` so that the VM's init is PID 1.
INIT = r"""#!/bin/sh
if [ ! -e /testvm-command ]; then # only asked whether it boots
    echo testvm-probe-booted >/dev/console
    exec poweroff -f
fi
set -a
. /testvm-environment
set +a
. /modules/load_all.sh
options=trans=virtio,version=9p2000.L,access=any,msize=512000,cache=loose
mkdir -p /lower /upper
mount -t 9p -o ro,$options root /lower || exec poweroff -f
mount -t tmpfs -o mode=755 upper /upper
mkdir -p /upper/files /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work root /newroot
mount -t 9p -o rw,$options project "/newroot$testvm_project"
cp /testvm-command /newroot/.testvm-command
exec switch_root /newroot "$testvm_project/scripts/testvm-init"
"""


def fail(what: str, why: str) -> NoReturn:
    print(f"testvm: {what}: {why}", file=sys.stderr)
    sys.exit(125)


@dataclass(frozen=True)
class Kernel:
    version: str
    image: Path


def find_kernel(boot: Path = Path("/boot"), modules: Path = Path("/lib/modules")) -> Kernel:
    """The newest installed kernel that has uinput and 9p, as modules or built in."""

    def order(version: str) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", version)]

    found = []
    for image in boot.glob("vmlinuz-*"):
        version = image.name.removeprefix("vmlinuz-")
        names = ""
        for listing in ("modules.dep", "modules.builtin"):
            with contextlib.suppress(OSError):
                names += (modules / version / listing).read_text()
        if "/uinput.ko" in names and "/9pnet_virtio.ko" in names:
            found.append(Kernel(version, image))
    if not found:
        fail(
            "no kernel",
            "none in /boot has modules for uinput and 9p; install linux-image-amd64"
            " (Debian) or linux-image-generic (Ubuntu)",
        )
    kernel = max(found, key=lambda found: order(found.version))
    if not os.access(kernel.image, os.R_OK):
        fail(str(kernel.image), "not readable for this user; run it as root")
    return kernel


def clock_options(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The rate of the time stamp counter, by which the guest keeps its time, and which is this
    machine's if the processor is emulated. A guest that has to find it out at its start may find,
    on a busy machine, one that is far too low: its clocks run fast, and every deadline with them.

    Linux tells it as BogoMIPS, of which a counter at 2.6 GHz has 5200; nothing on other processors.
    """
    found = re.search(r"^bogomips\s*: (\d+\.\d+)$", cpuinfo.read_text(), re.MULTILINE)
    return f" tsc_early_khz={round(float(found[1]) * 500)}" if found else ""


def archive(files: dict[str, str]) -> bytes:
    """An initramfs of these files (the kernel's driver-api/early-userspace/buffer-format); placed
    after another one, its files replace those of the same name."""
    packed = b""
    for name, text in [*files.items(), ("TRAILER!!!", "")]:
        data = text.encode()
        fields = (0, 0o100755, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name.encode()) + 1, 0)
        packed += b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        packed += b"\0" * (-len(packed) % 4) + data
        packed += b"\0" * (-len(packed) % 4)
    return packed


def initramfs(kernel: Kernel) -> Path:
    """virtme-ng's initial file system for this kernel, made once."""
    path = CACHE / f"initramfs-{kernel.version}-{int(kernel.image.stat().st_mtime)}"
    if path.exists():
        return path
    virtme_run = Path(sys.executable).with_name("virtme-run")
    if not virtme_run.exists():
        fail("virtme-ng", f"not installed in {ROOT}/.venv; scripts/testvm installs it")
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        made = Path(work) / "initramfs"
        options = "--mods=auto --rw --overlay-rwdir /tmp --force-9p --disable-kvm --dry-run"
        done = subprocess.run(
            [virtme_run, *options.split(), "--kimg", kernel.image, "--save-initramfs", made],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not made.exists():
            fail("virtme-run", (done.stderr or done.stdout).strip() or "made no initramfs")
        made.rename(path)
    return path


class Guest:
    """A running QEMU. It owns its kernel console and its initial file system, both memfds, so
    that nothing is left on disk however this program ends."""

    def __init__(
        self, kernel: Kernel, files: dict[str, str], kvm: bool, options: list[str], fds: list[int]
    ) -> None:
        binary = shutil.which("qemu-system-x86_64")
        if binary is None:
            fail("qemu-system-x86_64", "not found; install qemu-system-x86")
        image = os.memfd_create("testvm-initramfs")
        self._console = os.memfd_create("testvm-console")
        with open(image, "wb", closefd=False) as file:
            file.write(initramfs(kernel).read_bytes() + archive(files))
        # QEMU goes when this program goes, however it goes.
        command = ["setpriv", "--pdeathsig", "KILL", binary, "-name", "hostsim-testvm"]
        command += [*MACHINE.split(), *ACCELERATORS[kvm].split()]
        command += ["-kernel", str(kernel.image), "-initrd", f"/proc/self/fd/{image}"]
        command += [
            "-append",
            KERNEL_OPTIONS + ("" if kvm else clock_options()),
            "-serial",
            "chardev:console",
        ]
        command += ["-chardev", f"file,id=console,path=/proc/self/fd/{self._console}"]
        self._monitor, monitor = socket.socketpair()
        command += ["-chardev", f"socket,id=qmp,fd={monitor.fileno()}"]
        command += ["-mon", "chardev=qmp,mode=control"]
        try:
            self.process = subprocess.Popen(
                [*command, *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
                pass_fds=[image, self._console, monitor.fileno(), *fds],
            )
        finally:
            monitor.close()
            os.close(image)

    def spread(self) -> None:
        """Give each of the guest's processors one of this machine's, if there are enough.

        Else the scheduler here wakes an idle one's thread where its waker's runs; the waker, put
        off with a lock of the guest's kernel in its hand, has the other spin for a whole slice,
        and an interrupt from processor to processor takes 2.4 ms now and then.
        """
        here = sorted(os.sched_getaffinity(0))
        self._monitor.settimeout(MONITOR_DEADLINE)
        with self._monitor.makefile("rw", encoding="utf-8") as monitor:
            for question in ("qmp_capabilities", "query-cpus-fast"):
                monitor.write(json.dumps({"execute": question, "id": question}) + "\n")
                monitor.flush()
                line = monitor.readline()  # a greeting and events come unasked
                while line and (answer := json.loads(line)).get("id") != question:
                    line = monitor.readline()
                if not line:
                    return  # it died; whoever waits for its command will notice
        threads = [cpu["thread-id"] for cpu in answer["return"]]
        for thread, cpu in zip(threads, here, strict=False) if len(threads) <= len(here) else ():
            os.sched_setaffinity(thread, {cpu})

    def ask(self, command: str, **arguments: object) -> object:
        """What QEMU's monitor answers (QMP); an error is {"error": ...}."""
        question = {"execute": command, "arguments": arguments, "id": secrets.token_hex(8)}
        with self._monitor.makefile("rw", encoding="utf-8") as monitor:
            monitor.write(json.dumps(question) + "\n")
            monitor.flush()
            while line := monitor.readline():
                answer: dict[str, object] = json.loads(line)
                if answer.get("id") == question["id"]:
                    return answer.get("return", {"error": answer.get("error")})
        return {"error": "QEMU has ended"}

    def close(self) -> None:
        self._monitor.close()
        self.process.kill()
        self.process.wait()

    def console(self) -> str:
        """What the kernel, and then QEMU, had to say. After close()."""
        text = os.pread(self._console, 1 << 20, 0).decode(errors="replace")
        assert self.process.stderr is not None
        return text + self.process.stderr.read().decode(errors="replace")


def kvm_works(kernel: Kernel) -> bool:
    """Whether this kernel reaches its first program under KVM within PROBE_DEADLINE seconds.

    /dev/kvm being there does not tell: in some nested setups a guest only spins. The answer is
    remembered until this machine boots anew.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    memory = CACHE / "kvm.json"
    question = [boot_id, kernel.version]
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(memory.read_text())
        if known["question"] == question:
            return bool(known["works"])
    guest = Guest(kernel, {"init": INIT}, True, ["-m", "512"], [])
    with contextlib.closing(guest), contextlib.suppress(subprocess.TimeoutExpired):
        guest.process.wait(PROBE_DEADLINE)
    works = PROBE_WORD in guest.console()
    memory.write_text(json.dumps({"question": question, "works": works}))
    return works


class Stream:
    """What one port of the guest sends, up to the token, passed on to a descriptor of ours."""

    def __init__(self, sink: int | None, token: bytes) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.data = b""
        self.ended = False
        self._sink = sink
        self._token = token

    def on_readable(self) -> bool:
        """False at the end of the stream."""
        part = self.ours.recv(65536)
        self.data += part
        at = self.data.find(self._token)
        self.ended = at >= 0
        if not self.ended:
            # What may be the token's beginning waits for the next part.
            at = self.data.rfind(self._token[:1], -len(self._token)) if part else -1
            if at < 0 or not self._token.startswith(self.data[at:]):
                at = len(self.data)
        if self._sink is not None:
            rest = self.data[:at]
            self.data = self.data[at:]
            while rest:
                rest = rest[os.write(self._sink, rest) :]
        return bool(part) and not self.ended


def pump(streams: list[Stream], deadline: float) -> bool:
    """Pass the streams on until all have ended; False at the deadline."""
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream.ours, selectors.EVENT_READ, stream)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            for key, _ in selector.select(left):
                if not key.data.on_readable():
                    selector.unregister(key.fileobj)
    return True


def run(arguments: argparse.Namespace) -> int:
    kernel = find_kernel()
    kvm = kvm_works(kernel)
    if sys.stderr.isatty():
        how = "KVM" if kvm else "emulated"
        print(f"testvm: booting Linux {kernel.version} ({how})", file=sys.stderr)
    deadline = time.monotonic() + arguments.deadline
    words = arguments.command
    token = f"\x1e{secrets.token_hex(16)}"
    environment = {
        "testvm_token": token,
        "testvm_project": str(ROOT),
        "testvm_dir": str(Path.cwd()),
        "testvm_path": f"{ROOT}/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
        ":/sbin:/bin",
        "testvm_display": "1" if arguments.display else "",
        "testvm_audio": "1" if arguments.audio else "",
    }
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in environment.items()]
    files = {
        "init": INIT,
        "testvm-environment": "".join(lines),
        "testvm-command": (words[0] if len(words) == 1 else shlex.join(words)) + "\n",
    }
    streams = [Stream(1, token.encode()), Stream(2, token.encode()), Stream(None, b"\n")]
    options = ["-m", str(arguments.memory), "-smp", str(arguments.cpus or CPUS[kvm])]
    for tag, path, mode in ("root", "/", "on"), ("project", str(ROOT), "off"):
        quoted = path.replace(",", ",,")
        options += ["-fsdev", f"local,id={tag},path={quoted},readonly={mode},{SHARING}"]
        options += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
    options += ["-device", "virtio-serial-pci"]
    for number, stream in enumerate(streams, 1):
        options += ["-chardev", f"socket,id=port{number},fd={stream.theirs.fileno()}"]
        options += ["-device", f"virtserialport,nr={number},chardev=port{number}"]
    fds = [stream.theirs.fileno() for stream in streams]
    ours, theirs = socket.socketpair()
    wave = os.memfd_create("testvm-wave")
    if arguments.audio:
        fds.append(wave)
        sound = f"id=loudspeaker,path=/proc/self/fd/{wave},out.frequency={Desk.RATE}"
        options += ["-audiodev", f"wav,{sound}"]
    devices = Desk.DEVICES if arguments.display else ()
    for device in (*devices, *(Desk.SOUND if arguments.audio else ())):
        options += ["-device", device]
    if arguments.display or arguments.audio:
        options += ["-chardev", f"socket,id=desk,fd={theirs.fileno()}"]
        options += ["-device", "virtserialport,nr=4,chardev=desk"]
        fds.append(theirs.fileno())
    with contextlib.closing(Guest(kernel, files, kvm, options, fds)) as guest:
        for stream in streams:
            stream.theirs.close()
        theirs.close()
        guest.spread()
        if arguments.display or arguments.audio:
            Desk(guest.ask, ours, wave, ROOT)
        in_time = pump(streams, deadline)
        # The guest has synced its file systems before it tells the status: off at once.
    status = streams[2]
    if arguments.console or not status.ended:
        lines = guest.console().splitlines()
        for line in lines if arguments.console else lines[-20:]:
            print(f"testvm: console: {line}", file=sys.stderr)
    if status.ended:
        return int(status.data)
    if not in_time:
        why = f"not ended after {arguments.deadline:g} s"
        print(f"testvm: {shlex.join(words)}: {why}", file=sys.stderr)
        return 124
    fail("the VM", "died before the command had ended; its last lines are above")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/testvm", description="Run a command as root in the test VM."
    )
    deadline = float(os.environ.get("HOSTSIM_TESTVM_DEADLINE", "900"))
    option = parser.add_argument
    option("--deadline", type=float, default=deadline, help="in seconds (default: %(default)g)")
    option("--memory", type=int, default=2048, help="in MiB (default: %(default)s)")
    option("--cpus", type=int, help="default: 2 with KVM, else 1")
    option("--display", action="store_true", help="a screen, keyboard and mouse (testvmdesk.py)")
    option("--audio", action="store_true", help="a sound card that is heard (testvmdesk.py)")
    option("--console", action="store_true", help="at the end, show the kernel's console (stderr)")
    option("command", nargs=argparse.REMAINDER, metavar="CMD")
    arguments = parser.parse_args()
    if arguments.command[:1] == ["--"]:
        del arguments.command[0]
    if not arguments.command:
        parser.error("no command")

    def on_signal(number: int, _frame: object) -> NoReturn:
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
