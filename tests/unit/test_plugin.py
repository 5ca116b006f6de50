# SPDX-License-Identifier: Apache-2.0
"""hostsim/nf.h, the one header of a plug-in in C, and what is refused when one is loaded."""

import contextlib
import itertools
import os
import shlex
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cext._native import ffi

from cext import HERE, INCLUDE
from cext.port.port import NF_VERSION, Port
from cext.port.rules import Rules, flow_of
from cext.ring.channel import Shape, make_channel
from hostsim.bench.chain import packet
from hostsim.errors import HostsimError
from hostsim.nf import plugin, runner

HOSTSIM = Path(sys.executable).with_name("hostsim")
README = Path(__file__).parents[2] / "hostsim/nf/README.md"
WARN = ("-Wall", "-Wextra", "-Werror", "-pedantic")
FUNCTION = """
uint32_t hs_nf(void *state, struct hs_port *port, struct hs_packet *batch, uint32_t n) {
    return state == 0 && n > 0 && hs_packet_data(port, &batch[0])[0] == 2 ? n : 0;
}
"""
HEADER = "#include <hostsim/nf.h>\n"
GOOD = f"{HEADER}HS_NF_PLUGIN;\n{FUNCTION}"

SHAPE = Shape(ring=64, data=1 << 17, max_len=1600)
FRAME = packet()

Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """build(source, *words): my_nf.so, by the compiler and the flags that hostsim names."""

    def compile(source: str, *words: str, language: str = "c") -> Path:
        (tmp_path / f"my_nf.{language}").write_text(source)
        compiler = {"c": "cc", "cc": "c++"}[language]
        path = tmp_path / "my_nf.so"
        subprocess.run(
            [compiler, "-O2", "-shared", "-fPIC", *WARN, *words, *cflags(),
             "-o", str(path), str(tmp_path / f"my_nf.{language}")],
            check=True, timeout=60,
        )  # fmt: skip
        return path

    return compile


def cflags() -> list[str]:
    done = subprocess.run([HOSTSIM, "nf", "--cflags"], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return shlex.split(done.stdout)


def readme() -> str:
    return README.read_text().split("```c\n")[1].split("```")[0]


def passed_on(path: Path, first: int) -> int:
    """How many packets of three the plug-in sends on, the first of which begins with that byte."""
    port = Port(64)
    try:
        judge, library = plugin.load(path)
        assert library is not None
        batch = port.make(bytes([first]) + bytes(59), bytes(60), bytes(60))
        return int(judge(ffi.NULL, port.native, batch.native, len(batch)))
    finally:
        port.close()


@contextlib.contextmanager
def joined(length: int) -> Iterator[list[Port]]:
    """Ports of VM 1, 2, ...: rings from each to the next, and rules that send FRAME there."""
    its_flow = flow_of(FRAME)
    assert its_flow is not None
    with contextlib.ExitStack() as undo:
        ports = [Port(256) for _ in range(length)]
        for port in ports:
            undo.callback(port.close)
        for vm, (near, far) in enumerate(itertools.pairwise(ports), 1):
            table = Rules(64)
            undo.callback(table.close)
            channels = [make_channel(SHAPE), make_channel(SHAPE)]
            bells = [os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) for _ in range(2)]
            near.neighbour(vm + 1, SHAPE, channels[0], channels[1], (bells[0][0], bells[1][1]))
            far.neighbour(vm, SHAPE, channels[1], channels[0], (bells[1][0], bells[0][1]))
            near.rules(table.fd, table.entries)
            table.set_epoch(1)
            assert table.put(its_flow, vm + 1, 1)
            for fd in channels:
                os.close(fd)
        yield ports


def refused(path: Path) -> str:
    """The one line of the refusal."""
    with pytest.raises(HostsimError) as caught:
        runner.load(path.name, str(path.parent))
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"plug-in {path.name}: ")
    return line


def test_hostsim_names_the_directory_of_the_header_alone() -> None:
    assert cflags() == [f"-I{INCLUDE}"]
    assert [path for path in INCLUDE.rglob("*") if path.is_file()] == [INCLUDE / "hostsim/nf.h"]
    assert [path for path in HERE.rglob("*.h") if INCLUDE not in path.parents] == []


@pytest.mark.parametrize("source", [GOOD, readme()], ids=["small", "README"])
def test_a_plug_in_needs_that_header_and_no_library(tmp_path: Path, source: str) -> None:
    (tmp_path / "my_nf.c").write_text(source)
    done = subprocess.run(
        ["cc", "-M", *cflags(), str(tmp_path / "my_nf.c")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    needed = [Path(word) for word in done.stdout.replace("\\\n", " ").split()[1:]]
    assert INCLUDE / "hostsim/nf.h" in needed
    assert [path for path in needed if HERE in path.parents] == [INCLUDE / "hostsim/nf.h"]
    assert not [path for path in needed if {"xdp", "bpf", "linux"} & set(path.parts)]


@pytest.mark.parametrize(
    ("language", "standard"),
    [("c", "c99"), ("c", "c11"), ("c", "gnu17"), ("cc", "c++11"), ("cc", "c++20")],
)
@pytest.mark.parametrize("visibility", ["default", "hidden"])
def test_in_c_and_in_cpp(build: Build, language: str, standard: str, visibility: str) -> None:
    path = build(GOOD, f"-std={standard}", f"-fvisibility={visibility}", language=language)
    assert passed_on(path, 2) == 3
    assert passed_on(path, 3) == 0


def test_the_readmes_plug_in_is_cpp_too(build: Build) -> None:
    assert passed_on(build(readme(), "-std=c++17", language="cc"), 2) == 3


def test_one_that_passes_on_more_than_it_got_passes_on_that(build: Build) -> None:
    """In the loop that hostsim runs it in, by rings."""
    path = build(GOOD.replace("? n : 0", "? UINT32_MAX : 0"))
    with joined(3) as (one, two, three):
        one.send(one.make(*[FRAME] * 5))
        readable, writable = os.pipe()
        os.write(writable, b"x")
        two.control = readable
        runner.load(path.name, str(path.parent))(two)
        os.close(readable)
        os.close(writable)
        assert [bytes(packet) for packet in three.recv()] == [FRAME] * 5
        assert two.counters()["ring_out"] == 5
        assert two.native.umem.free_count == 256


def test_another_version_is_refused(build: Build) -> None:
    other = GOOD.replace("HS_NF_PLUGIN", f"const uint32_t hs_nf_version = {NF_VERSION + 6}")
    assert refused(build(other)) == (
        f"plug-in my_nf.so: has version {NF_VERSION + 6} of hostsim/nf.h, {NF_VERSION} is wanted; "
        "build it anew: cc -shared -fPIC $(hostsim nf --cflags)"
    )


def test_no_version_is_refused(build: Build) -> None:
    assert refused(build(HEADER + FUNCTION)) == (
        f"plug-in my_nf.so: has no version of hostsim/nf.h, {NF_VERSION} is wanted; "
        "write HS_NF_PLUGIN; in it and build it anew: cc -shared -fPIC $(hostsim nf --cflags)"
    )


def test_a_library_without_the_function_is_refused(build: Build) -> None:
    assert refused(build(f"{HEADER}HS_NF_PLUGIN;\n")) == (
        "plug-in my_nf.so: has no function hs_nf; see hostsim/nf.h"
    )


def test_a_library_that_misses_a_symbol_is_refused(build: Build) -> None:
    needy = (
        f"extern int nowhere(void);\n{GOOD}int used(void);\nint used(void) {{ return nowhere(); }}"
    )
    line = refused(build(needy))
    assert line.startswith("plug-in my_nf.so: does not load (")
    assert "undefined symbol: nowhere" in line


@pytest.mark.parametrize("content", [b"", b"no ELF", b"\x7fELF" + bytes(60)])
def test_what_is_no_library_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "my_nf.so").write_bytes(content)
    assert refused(tmp_path / "my_nf.so").startswith("plug-in my_nf.so: does not load (")


def test_a_library_for_another_machine_is_refused(build: Build, tmp_path: Path) -> None:
    library = bytearray(build(GOOD).read_bytes())
    struct.pack_into("H", library, 18, 22)  # e_machine: s390
    (tmp_path / "other.so").write_bytes(library)
    assert refused(tmp_path / "other.so").startswith("plug-in other.so: does not load (")


def test_a_program_is_refused(build: Build, tmp_path: Path) -> None:
    program = tmp_path / "program.so"
    shutil.copy(os.path.realpath(sys.executable), program)
    assert refused(program).startswith("plug-in program.so: does not load (")


def test_a_library_that_is_cut_is_refused(build: Build, tmp_path: Path) -> None:
    """Wherever: in the middle of its pages, of which the loader would be killed, or at its end."""
    library = build(GOOD).read_bytes()
    for left in (65, len(library) // 4, len(library) // 2, len(library) - 4096, len(library) - 1):
        (tmp_path / "cut.so").write_bytes(library[:left])
        assert refused(tmp_path / "cut.so") == (
            "plug-in cut.so: its end is missing; build or copy it again"
        )


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A FIFO without a writer would be waited for."""
    path = tmp_path / "my_nf.so"
    assert refused(path) == f"plug-in my_nf.so: {path} is not there"
    path.mkdir()
    assert refused(path) == f"plug-in my_nf.so: {path} is no file"
    path.rmdir()
    os.mkfifo(path)
    assert refused(path) == f"plug-in my_nf.so: {path} is no file"


def test_a_function_in_python_needs_hostsim_nf_alone() -> None:
    """And the package does not load the extension for those that need no port."""
    program = """
import sys
import hostsim.nf
assert "cext._native" not in sys.modules
from hostsim.nf import Batch, Port
from cext.port import port
assert (Batch, Port) == (port.Batch, port.Port)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
    with pytest.raises(ImportError, match="cannot import name 'Porch'"):
        exec("from hostsim.nf import Porch")
