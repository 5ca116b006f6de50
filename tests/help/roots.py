"""Roots of VMs' own for tests: busybox, made in no time."""

import subprocess
from pathlib import Path

APPLETS = "sh cat ls id ps mount touch rm mkdir mknod ln echo sleep stat head od dd true false kill"
APPLETS += " wc chmod chown tty hostname ip ping nc test grep readlink init env printf tail"


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
