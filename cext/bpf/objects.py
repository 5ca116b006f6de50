# SPDX-License-Identifier: Apache-2.0
"""BPF objects, programs and maps, through libbpf (bpf(2), libbpf.h).

An `Object` owns everything it loaded: closing it drops its descriptors, and the kernel frees
each program and map when the last attachment and descriptor are gone. Nothing is pinned.
"""

import errno
import functools
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from cext import HERE, check
from cext._native import ffi, lib

lib.hs_bpf_capture_log()

CGROUP_DEVICE: int = lib.BPF_CGROUP_DEVICE
CGROUP_SETSOCKOPT: int = lib.BPF_CGROUP_SETSOCKOPT
ALLOW_MULTI: int = lib.BPF_F_ALLOW_MULTI
NOEXIST = 1
EXIST = 2


def attach_tcx(netns_fd: int, program_fd: int, index: int, egress: bool = False) -> bool:
    """Run a program at the tc ingress or egress of a namespace's interface, before anything that
    clsact has there (tcx). It goes with the interface. False if the kernel has none of that
    (before Linux 6.6). Raises OSError."""
    result = lib.hs_tcx_attach(netns_fd, program_fd, index, egress)
    if result == -errno.EINVAL:
        return False
    check(result, f"BPF program at interface {index}")
    return True


@functools.cache
def has_tcx() -> bool:
    """Whether this kernel has tcx."""
    return bool(lib.hs_tcx_known())


class Map:
    """A map of a loaded object. Keys and values are `bytes` of exactly the map's sizes."""

    def __init__(self, handle: Any) -> None:
        self.fd: int = lib.bpf_map__fd(handle)
        self.key_size: int = lib.bpf_map__key_size(handle)
        self.value_size: int = lib.bpf_map__value_size(handle)

    def get(self, key: bytes) -> bytes | None:
        """The value, or None if there is no such key. Not for per-CPU maps: see `get_percpu`."""
        return self._lookup(key, self.value_size)

    def get_percpu(self, key: bytes) -> list[bytes] | None:
        """One value for each possible CPU, or None if there is no such key."""
        stride = (self.value_size + 7) & ~7
        cpus = lib.libbpf_num_possible_cpus()
        raw = self._lookup(key, stride * cpus)
        if raw is None:
            return None
        return [raw[i * stride : i * stride + self.value_size] for i in range(cpus)]

    def _lookup(self, key: bytes, size: int) -> bytes | None:
        assert len(key) == self.key_size, (len(key), self.key_size)
        out = ffi.new("char[]", size)
        result = lib.bpf_map_lookup_elem(self.fd, key, out)
        if result == -errno.ENOENT:
            return None
        check(result, "BPF map look-up")
        return bytes(ffi.buffer(out, size))

    def set(self, key: bytes, value: bytes, flags: int = 0) -> None:
        """Write one entry. Raises OSError (E2BIG: full; EEXIST/ENOENT by `flags`)."""
        assert len(key) == self.key_size, (len(key), self.key_size)
        assert len(value) == self.value_size, (len(value), self.value_size)
        check(lib.bpf_map_update_elem(self.fd, key, value, flags), "BPF map update")

    def delete(self, key: bytes) -> bool:
        """Remove one entry; False if it was not there."""
        assert len(key) == self.key_size, (len(key), self.key_size)
        result = lib.bpf_map_delete_elem(self.fd, key)
        if result == -errno.ENOENT:
            return False
        check(result, "BPF map delete")
        return True

    def keys(self) -> Iterator[bytes]:
        """Every key. Entries that come or go meanwhile may be missed, and a key may come twice."""
        key: Any = ffi.NULL
        while True:
            following = ffi.new("char[]", self.key_size)
            result = lib.bpf_map_get_next_key(self.fd, key, following)
            if result == -errno.ENOENT:
                return
            check(result, "BPF map walk")
            yield bytes(ffi.buffer(following, self.key_size))
            key = following


class Object:
    """A BPF object file of this package, loaded.

    name: as in cext/NAME.bpf.c
    sizes, flags: max_entries and map_flags by map name, if the file's are not wanted
    shared: maps by name that are another object's: descriptors, which stay the caller's
    without: programs that are not loaded

    Raises OSError with the tail of libbpf's or the verifier's log.
    """

    def __init__(
        self,
        name: str,
        sizes: Mapping[str, int] | None = None,
        flags: Mapping[str, int] | None = None,
        shared: Mapping[str, int] | None = None,
        without: Collection[str] = (),
    ) -> None:
        self._links: list[Any] = []
        self._handle = lib.bpf_object__open_file(os.fsencode(HERE / f"{name}.bpf.o"), ffi.NULL)
        if self._handle == ffi.NULL:
            raise OSError(ffi.errno, f"BPF object {name}: {_log() or os.strerror(ffi.errno)}")
        try:
            wanted = (
                (lib.bpf_map__set_max_entries, sizes),
                (lib.bpf_map__set_map_flags, flags),
                (lib.bpf_map__reuse_fd, shared),
            )
            for setter, values in wanted:
                for map_name, value in (values or {}).items():
                    handle = lib.bpf_object__find_map_by_name(self._handle, map_name.encode())
                    check(setter(handle, value), f"BPF map {map_name}")
            for program in without:
                check(
                    lib.bpf_program__set_autoload(self._program(program), False),
                    f"BPF program {program}",
                )
            result = lib.bpf_object__load(self._handle)
            if result < 0:
                raise OSError(-result, f"BPF object {name}: {_log() or os.strerror(-result)}")
        except OSError:
            self.close()
            raise

    def program(self, name: str) -> int:
        """The program's descriptor; the object keeps owning it. Raises KeyError."""
        fd: int = lib.bpf_program__fd(self._program(name))
        return fd

    def attach(self, name: str) -> None:
        """Attach a program to what its section names, until `close`. Raises KeyError, OSError."""
        link = lib.bpf_program__attach(self._program(name))
        if link == ffi.NULL:
            raise OSError(ffi.errno, f"BPF program {name}: {_log() or os.strerror(ffi.errno)}")
        self._links.append(link)

    def missed(self, name: str) -> int:
        """How often the program was left out because it ran on the same CPU already."""
        info = ffi.new("struct bpf_prog_info *")
        size = ffi.new("uint32_t *", ffi.sizeof("struct bpf_prog_info"))
        check(lib.bpf_obj_get_info_by_fd(self.program(name), info, size), f"BPF program {name}")
        missed: int = info.recursion_misses
        return missed

    def _program(self, name: str) -> Any:
        handle = lib.bpf_object__find_program_by_name(self._handle, name.encode())
        if handle == ffi.NULL:
            raise KeyError(name)
        return handle

    def map(self, name: str) -> Map:
        """A map of the object; its descriptor stays the object's. Raises KeyError."""
        handle = lib.bpf_object__find_map_by_name(self._handle, name.encode())
        if handle == ffi.NULL:
            raise KeyError(name)
        return Map(handle)

    def detach(self) -> None:
        """Drop every attachment. Twice is harmless."""
        while self._links:
            lib.bpf_link__destroy(self._links.pop())

    def close(self) -> None:
        """Drop every attachment and descriptor. Twice is harmless."""
        self.detach()
        if self._handle != ffi.NULL:
            lib.bpf_object__close(self._handle)
            self._handle = ffi.NULL


CONSUMED = 256
"""Records that are handed over in one call."""
BUDGET = 0.004
"""Seconds after which a call hands over no more."""


class Ring:
    """The reader of a BPF ring buffer (BPF_MAP_TYPE_RINGBUF).

    sample: called with each record's bytes from inside `consume`; must not raise.
    """

    def __init__(self, ring: Map, sample: Callable[[bytes], None]) -> None:
        self._sample = sample
        self._left = 0
        self._until = 0.0
        self._context = ffi.new_handle(self._record)
        self._handle = lib.ring_buffer__new(ring.fd, lib.hs_ring_sample, self._context, ffi.NULL)
        if self._handle == ffi.NULL:
            raise OSError(ffi.errno, f"BPF ring buffer: {os.strerror(ffi.errno)}")

    def fileno(self) -> int:
        """Readable when records wait; for select and event loops."""
        fd: int = lib.ring_buffer__epoll_fd(self._handle)
        return fd

    def consume(self, most: int = CONSUMED) -> None:
        """Hand over waiting records, `most` at a time and for BUDGET: whoever fills the ring as
        fast as it is read would keep the caller here for ever. If more wait, `fileno` stays
        readable. Raises OSError."""
        self._left = most
        self._until = time.monotonic() + BUDGET
        said = lib.ring_buffer__consume(self._handle)
        if said != -errno.EAGAIN:
            check(said, "BPF ring buffer")

    def _record(self, data: bytes) -> int:
        self._sample(data)
        self._left -= 1
        return 0 if self._left > 0 and time.monotonic() < self._until else -errno.EAGAIN

    def close(self) -> None:
        """Unmap. Twice is harmless."""
        if self._handle != ffi.NULL:
            lib.ring_buffer__free(self._handle)
            self._handle = ffi.NULL


@ffi.def_extern()  # type: ignore[untyped-decorator]
def hs_ring_sample(context: Any, data: Any, size: int) -> int:
    said: int = ffi.from_handle(context)(bytes(ffi.buffer(data, size)))
    return said


def attach_cgroup(program_fd: int, cgroup_fd: int, kind: int, flags: int = 0) -> None:
    """Attach a program to a cgroup v2 directory; it goes with the cgroup. Raises OSError."""
    check(lib.bpf_prog_attach(program_fd, cgroup_fd, kind, flags), "BPF attach to a cgroup")


def walk(program_fd: int, map_fd: int) -> None:
    """Run a program of the kind iter/bpf_sk_storage_map once for each entry of such a map, that is
    for each socket of the machine that has one. Takes as long as there are sockets: not for an
    event loop. Raises OSError."""
    check(lib.hs_bpf_walk(program_fd, map_fd), "BPF walk over sockets")


def detach_cgroup(cgroup_fd: int, kind: int) -> None:
    """Take away every program of a kind that is attached to a cgroup v2 directory itself. Raises
    OSError."""
    ids, count = ffi.new("uint32_t[64]"), ffi.new("uint32_t *", 64)  # BPF_CGROUP_MAX_PROGS
    check(lib.bpf_prog_query(cgroup_fd, kind, 0, ffi.NULL, ids, count), "BPF query of a cgroup")
    for number in ids[0 : count[0]]:
        program = check(lib.bpf_prog_get_fd_by_id(number), "BPF program of a cgroup")
        try:
            check(lib.bpf_prog_detach2(program, cgroup_fd, kind), "BPF detach from a cgroup")
        finally:
            os.close(program)


def _log() -> str:
    buffer = ffi.new("char[]", 8193)
    lib.hs_bpf_take_log(buffer, 8193)
    lines = [line for line in ffi.string(buffer).decode(errors="replace").splitlines() if line]
    return "; ".join(lines[-6:])
