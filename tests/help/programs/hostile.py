# SPDX-License-Identifier: Apache-2.0
"""What a hostile OS does; run inside an OS by test_hostile.py.

    hostile.py keep NODE         opens NODE, dups it, hides copies of it, and reports what is read
    hostile.py flood             floods the agent socket with garbage, half and huge messages
    hostile.py beg TIMES         asks for flips to work over the agent socket, with a line of the
                                 daemon's log in the name, until it is cut off so many times; says
                                 how many answers came, and how often it was cut off
    hostile.py puppet            does what it is told, a line each, and answers each with a line:
                                 a value, or the name of the error. The commands are below.

`keep` prints `ready` once it has every copy, and `leak N` for N bytes read from copies that were
fetched back after the flip (a line is asked for by a line on standard input), then `end`.
"""

import array
import ctypes
import errno
import fcntl
import os
import socket
import stat
import struct
import sys
import threading

PATH = "/run/hostsim/agent.sock"
MANY = 520  # more than cext/input/found.c looks at in one queue


def keep(node: str) -> None:
    """Copies: dup, another process, a socket's queue, a queue in a queue, a listener's backlog."""
    fd = os.open(node, os.O_RDONLY | os.O_NONBLOCK)
    os.dup(fd)
    if os.fork() == 0:
        threading.Event().wait()
    a, b = socket.socketpair()
    socket.send_fds(a, [b"x" * 5000], [fd])
    c, d = socket.socketpair()
    inner, outer = socket.socketpair()
    socket.send_fds(inner, [b"y"], [fd])
    socket.send_fds(c, [b"z"], [outer.fileno()])
    outer.close()
    e, f = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    e.send(b"first")
    socket.send_fds(e, [b"second"], [fd])
    os.close(fd)
    print("ready", flush=True)
    sys.stdin.readline()
    found = []
    found += fetch(b, 5000)
    for fd in fetch(d, 1):
        found += fetch(socket.socket(fileno=fd), 1)
    f.recv(100)
    found += fetch(f, 100)
    total = 0
    for fd in found:
        try:
            total += len(os.read(fd, 4096))
        except OSError:
            continue
    print(f"copies {len(found)}", flush=True)
    print(f"leak {total}", flush=True)
    for link in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{link}").startswith("/dev/input"):
                os.open(f"/proc/self/fd/{link}", os.O_RDONLY)
                print("reopened", flush=True)
        except OSError:
            continue
    print("end", flush=True)


def fetch(sock: socket.socket, size: int) -> list[int]:
    _, data, _, _ = sock.recvmsg(size, socket.CMSG_SPACE(64))
    fds = array.array("i")
    for _, _, raw in data:
        fds.frombytes(raw)
    return list(fds)


def flood() -> None:
    """For ever: whatever a socket takes."""
    header = struct.Struct("=2sBBI")
    shapes = [
        b"",
        b"h",
        b"\xff" * 9000,
        header.pack(b"hA", 1, 6, 1),  # RELEASED, though it is not the resident agent
        header.pack(b"hA", 1, 1, 1),  # HELLO
        header.pack(b"hA", 1, 2, 1) + b"mars",
        header.pack(b"hA", 1, 2, 1) + b"play",
        header.pack(b"hA", 1, 19, 1) + b"{}",
        header.pack(b"hA", 9, 4, 1),
    ]
    held: list[socket.socket] = []
    print("ready", flush=True)
    while True:
        for shape in shapes:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            sock.setblocking(False)
            try:
                sock.connect(PATH)
                for _ in range(20):
                    sock.send(shape)
            except OSError:
                pass
            held.append(sock)
            if len(held) > 100:
                for one in held:
                    one.close()
                held.clear()


def beg(times: int) -> None:
    """Whoever reads the log is to take the line in the name for one of the daemon's."""
    name = b"work\n2026-01-01 00:00:00,000 INFO work is foreground after play"
    refused = 0
    for _ in range(times):
        answer = b"x"
        with agent() as sock:
            while answer:
                try:
                    sock.send(struct.pack("=2sBBI", b"hA", 1, 2, 7) + name)
                    answer = sock.recv(5000)
                except OSError:
                    answer = b""
                refused += bool(answer)
    print(refused, times, flush=True)


class Puppet:
    """Its commands are its methods."""

    def __init__(self) -> None:
        self._sockets: dict[str, socket.socket] = {}
        self._thread: HidingThread | None = None

    def open(self, path: str) -> str:
        """A descriptor."""
        return str(os.open(path, os.O_RDWR | os.O_NONBLOCK))

    def path(self, path: str) -> str:
        """The file, and not what is behind it."""
        return str(os.open(path, os.O_PATH))

    def twice(self, fd: str) -> str:
        return str(os.dup(int(fd)))

    def revoke(self, fd: str) -> str:
        fcntl.ioctl(int(fd), 0x40044591, 0)  # EVIOCREVOKE
        return "done"

    def close(self, fd: str) -> str:
        os.close(int(fd))
        return "done"

    def read(self, fd: str) -> str:
        """How many bytes there are."""
        return str(len(os.read(int(fd), 4096)))

    def write(self, fd: str, text: str) -> str:
        """text: in hexadecimal."""
        return str(os.write(int(fd), bytes.fromhex(text)))

    def store(self, path: str, text: str) -> str:
        """Into a file that is there."""
        with open(path, "w") as file:
            file.write(text)
        return "done"

    def mknod(self, path: str, rdev: str) -> str:
        os.mknod(path, stat.S_IFCHR | 0o600, int(rdev))
        os.unlink(path)
        return "done"

    def link(self, old: str, new: str) -> str:
        os.link(old, new)
        return "done"

    def list(self, path: str) -> str:
        """How many entries."""
        return str(len(os.listdir(path)))

    def bind(self, path: str) -> str:
        """A socket for `take`."""
        self._sockets[path] = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sockets[path].bind(path)
        return "done"

    def give(self, path: str, fd: str) -> str:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect(path)
            socket.send_fds(sock, [b"x"], [int(fd)])
        return "done"

    def take(self, path: str) -> str:
        """The descriptor that somebody gave."""
        return str(fetch(self._sockets[path], 1)[0])

    def hide(self, how: str, node: str) -> str:
        """Open it, and keep it where it is hard to find:

        queue      in a socket's queue
        nested     in the queue of a socket in a queue
        many       in a queue, behind as many descriptors as fit
        backlog    in a connection that nobody has accepted
        thread     in the descriptor table of a thread, whose process's first one has ended
        thread-queue   in a socket's queue, the socket in such a table
        """
        if how.startswith("thread"):
            self._thread = HidingThread(node, queued=how == "thread-queue")
            return "done"
        fd = os.open(node, os.O_RDONLY | os.O_NONBLOCK)
        give, self._sockets[how] = socket.socketpair()
        if how == "nested":
            outer, self._sockets[how] = give, self._sockets[how]
            give, inner = socket.socketpair()
            socket.send_fds(outer, [b"x"], [inner.fileno()])
            inner.close()
        elif how == "many":
            give.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            null = os.open("/dev/null", os.O_RDONLY)
            for _ in range(MANY):
                socket.send_fds(give, [b"x"], [null], socket.MSG_DONTWAIT)
            os.close(null)
        elif how == "backlog":
            self._sockets[how] = socket.socket(socket.AF_UNIX)
            self._sockets[how].bind("\0backlog")
            self._sockets[how].listen()
            give = socket.socket(socket.AF_UNIX)
            give.connect("\0backlog")
        socket.send_fds(give, [b"x"], [fd], socket.MSG_DONTWAIT)
        os.close(fd)
        if how != "nested":
            give.close()
        return "done"

    def find(self, how: str) -> str:
        """Fetch it back: how many bytes it reads."""
        if how.startswith("thread"):
            assert self._thread is not None
            return self._thread.read()
        sock = self._sockets[how]
        if how == "backlog":
            sock, _ = sock.accept()
        if how == "nested":
            sock = socket.socket(fileno=fetch(sock, 1)[0])
        for _ in range(MANY if how == "many" else 0):
            os.close(fetch(sock, 1)[0])
        return self.read(str(fetch(sock, 1)[0]))

    def run(self, node: str, path: str) -> str:
        """Have it run from process to process, each the child of the one before; what it reads is
        appended to the file."""
        fd = os.open(node, os.O_RDONLY | os.O_NONBLOCK)
        if os.fork() == 0:
            out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            while os.fork() == 0:
                try:
                    os.write(out, os.read(fd, 4096))
                except BlockingIOError:
                    continue
                except OSError:
                    break
            os._exit(0)
        os.close(fd)
        return "done"

    def say(self, text: str, times: str) -> str:
        """One message (hexadecimal) to the agent socket, again and again over one connection: how
        many answers come before the other side closes it, or there is one for each."""
        answers = 0
        with agent() as sock:
            try:
                for _ in range(int(times)):
                    sock.send(bytes.fromhex(text))
                    answers += bool(sock.recv(9000))
            except (BrokenPipeError, ConnectionResetError):
                pass
        return str(answers)

    def stay(self, text: str) -> str:
        """One message to the agent socket, over a connection that stays open."""
        self._sockets[text] = agent()
        self._sockets[text].send(bytes.fromhex(text))
        return "done"

    def crowd(self, count: str) -> str:
        """So many connections to the agent socket: how many the other side leaves open."""
        sockets = [agent() for _ in range(int(count))]
        status = struct.pack("=2sBBI", b"hA", 1, 4, 7)
        answers = 0
        for sock in sockets:
            try:
                sock.send(status)
                answers += bool(sock.recv(9000))
            except (BrokenPipeError, ConnectionResetError):
                continue
        return str(answers)


class HidingThread:
    """A process whose first thread has ended: what another thread has open, nobody finds in the
    descriptor table of the first. It has the node open or, queued, only in a socket's queue."""

    def __init__(self, node: str, *, queued: bool) -> None:
        self._talk, theirs = socket.socketpair()
        if os.fork() == 0:
            self._talk.close()
            threading.Thread(target=_hide, args=(node, queued, theirs)).start()
            number = 60 if os.uname().machine == "x86_64" else 93  # exit(2): of this thread alone
            ctypes.CDLL(None).syscall(number, 0)
        theirs.close()
        assert self._talk.recv(9) == b"hidden"

    def read(self) -> str:
        """How many bytes there are; nothing if the process is gone."""
        try:
            self._talk.send(b"read")
            return self._talk.recv(20).decode()
        except (BrokenPipeError, ConnectionResetError):
            return ""


def _hide(node: str, queued: bool, talk: socket.socket) -> None:
    fd = os.open(node, os.O_RDONLY | os.O_NONBLOCK)
    if queued:
        give, take = socket.socketpair()
        socket.send_fds(give, [b"x"], [fd])
        os.close(fd)
        give.close()
    with open("/proc/self/status") as status:  # of the first thread
        while "\nState:\tZ" not in status.read():
            os.sched_yield()
            status.seek(0)
    talk.send(b"hidden")
    talk.recv(9)
    if queued:
        (fd,) = fetch(take, 1)
    try:
        answer = str(len(os.read(fd, 4096)))
    except OSError as error:
        answer = errno.errorcode.get(error.errno or 0, "?")
    talk.send(answer.encode())


def agent() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(PATH)
    return sock


def puppet() -> None:
    own = Puppet()
    print("ready", flush=True)
    for line in sys.stdin:
        word, *rest = line.split()
        try:
            print(getattr(own, word)(*rest), flush=True)
        except OSError as error:
            print(errno.errorcode.get(error.errno or 0, "?"), flush=True)


match sys.argv[1:]:
    case ["keep", node]:
        keep(node)
    case ["flood"]:
        flood()
    case ["beg", times]:
        beg(int(times))
    case ["puppet"]:
        puppet()
    case _:
        sys.exit(__doc__)
