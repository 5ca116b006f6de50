# SPDX-License-Identifier: Apache-2.0
"""Roots of VMs' own for tests: busybox, made in no time; systemd, of packages installed here.

python -m help.roots     makes the image that `booting` gives, for the test VM (scripts/test)
"""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from help.programs import PROGRAMS

APPLETS = "sh cat ls id ps mount touch rm mkdir mknod ln echo sleep stat head od dd true false kill"
APPLETS += " wc chmod chown tty hostname ip ping nc test grep readlink init env printf tail"

BOOTED = ("systemd-sysv", "dbus", "iproute2")
"""Packages that a root that boots has, beside what they need and what every Debian has."""
FOR_INPUT = (*BOOTED, "python3", "bubblewrap")
"""Of a root whose services read input devices and that has containers, too."""
READER = """\
[Service]
ExecStart=/usr/bin/python3 -I -S /opt/reader.py /run/events
"""
"""A service that reads all input devices from the boot on; what it reads is in /run/events."""
KEPT = Path(__file__).parents[2] / ".testvm/booting.erofs"
"""In the project, so that the test VM has it too: there it would take minutes."""
LEFT_OUT = re.compile(r"/usr/share/(doc|man|locale|info|i18n|zoneinfo|perl)/|/usr/lib/udev/hwdb")
AS_HERE = ("/etc/passwd", "/etc/group", "/etc/ld.so.cache", "/etc/alternatives")
"""What packages write when they are configured."""


def busybox(folder: Path) -> Path:
    """A root in `folder`/root; busybox-static is its only program."""
    listed = subprocess.run(
        ("dpkg", "-L", "busybox-static"), capture_output=True, text=True, check=True
    ).stdout.split()
    program = next(Path(path) for path in listed if path.endswith("/bin/busybox"))
    root = folder / "root"
    for place in ("bin", "sbin", "etc", "root", "home/user"):
        (root / place).mkdir(parents=True, mode=0o755)
    root.chmod(0o755)
    (root / "bin/busybox").write_bytes(program.read_bytes())
    (root / "bin/busybox").chmod(0o755)
    for applet in APPLETS.split():
        (root / "bin" / applet).symlink_to("busybox")
    (root / "sbin/init").symlink_to("../bin/busybox")
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:\n")
    (root / "etc/group").write_text("root:x:0:\ntty:x:5:\ninput:x:77:\nuser:x:1000:\n")
    return root


def erofs(root: Path) -> Path:
    """An image of it, beside it."""
    image = root.with_suffix(".erofs")
    subprocess.run(
        ("mkfs.erofs", "--quiet", str(image), str(root)), check=True, capture_output=True
    )
    return image


def tree(folder: Path) -> dict[str, tuple[int, ...]]:
    """What tells whether anybody has changed anything below the folder."""
    found: dict[str, tuple[int, ...]] = {}
    for path in sorted([folder, *folder.rglob("*")]):
        about = path.lstat()
        found[str(path)] = (
            about.st_mode,
            about.st_uid,
            about.st_gid,
            about.st_size,
            about.st_ctime_ns,
        )
    return found


def booting() -> Path:
    """An image with systemd as its init, Python, some of the tests' programs in /opt, and the
    service READER. Made once, and anew when packages were installed here or the tests changed."""
    made_of = (Path("/var/lib/dpkg/status"), Path(__file__), *PROGRAMS.glob("*.py"))
    if KEPT.exists() and KEPT.stat().st_mtime > max(path.stat().st_mtime for path in made_of):
        return KEPT
    KEPT.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=KEPT.parent) as folder:
        root = systemd(Path(folder), FOR_INPUT)
        (root / "opt").mkdir(exist_ok=True)
        for name in ("reader.py", "tcp.py"):
            shutil.copy(PROGRAMS / name, root / "opt" / name)
        units = root / "etc/systemd/system"
        (units / "multi-user.target.wants").mkdir(parents=True, exist_ok=True)
        (units / "reader.service").write_text(READER)
        (units / "multi-user.target.wants/reader.service").symlink_to("../reader.service")
        erofs(root).rename(KEPT)
    return KEPT


def systemd(folder: Path, packages: tuple[str, ...] = BOOTED) -> Path:
    """A root in `folder`/root with systemd as its init, some 100 MB: files of packages that are
    installed here, so that no mirror is asked for them. Takes a few seconds."""
    root = folder / "root"
    root.mkdir(mode=0o755)
    merged = {top: os.readlink(top) for top in ("/bin", "/sbin", "/lib", "/lib64") if _link(top)}
    for top, target in merged.items():
        (root / top[1:]).symlink_to(target)
    listed = _said("dpkg", "-L", *sorted(_closure(packages))).splitlines()
    files = {_real(path, merged) for path in listed if path.startswith("/") and path != "/."}
    chosen = [path for path in sorted(files) if not LEFT_OUT.match(path) and path not in merged]
    chosen = [path for path in chosen if os.path.lexists(path)]
    for words, names in ((("--no-recursion",), chosen), ((), AS_HERE)):
        pack = ("tar", "-C", "/", "-cf", "-", *words, "-T", "-")
        subprocess.run(
            f"{' '.join(pack)} | tar -C {root} -xpf -",
            shell=True,
            check=True,
            input="".join(f"{name[1:]}\n" for name in names),
            text=True,
        )
    (root / "etc/machine-id").write_text("")
    return root


def _link(path: str) -> bool:
    return os.path.islink(path)


def _real(path: str, merged: dict[str, str]) -> str:
    top, rest = f"/{path.split('/')[1]}", path.split("/")[2:]
    return "/".join((f"/{merged[top].strip('/')}", *rest)) if top in merged else path


def _said(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def _closure(wanted: tuple[str, ...]) -> set[str]:
    """These packages, the essential ones, and all that they need, by dpkg's own names."""
    needs: dict[str, set[str]] = {}
    names: dict[str, str] = {}
    found: set[str] = set()
    wait: list[str] = list(wanted)
    form = "${binary:Package}\t${Package}\t${Essential}\t${Provides}\t${Pre-Depends}, ${Depends}\n"
    for line in _said("dpkg-query", "-W", "-f", form).splitlines():
        package, plain, essential, provides, depends = line.split("\t")
        for name in (plain, *_words(provides)):
            if names.setdefault(name, package) != package and name == plain:
                names[name] = package
        needs[package] = set(_words(depends))
        if essential == "yes":
            wait.append(plain)
    while wait:
        taken = names.get(wait.pop())
        if taken is not None and taken not in found:
            found.add(taken)
            wait.extend(needs[taken])
    return found


def _words(relations: str) -> list[str]:
    """The names in a field such as Depends: all alternatives of each, of which some are here."""
    parts = (part.strip() for part in re.split(r"[,|]", relations))
    return [re.split(r"[ (:]", part)[0] for part in parts if part]


if __name__ == "__main__":
    booting()
