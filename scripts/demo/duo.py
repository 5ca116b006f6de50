"""The demo of host `duo`: two operating systems, one keyboard, and three ways to flip."""

import subprocess
import sys
import tempfile
from pathlib import Path

from rich.text import Text
from stage import (
    BIN,
    DEADLINE,
    HOSTSIM,
    ROOT,
    Failed,
    ask,
    console,
    expect,
    headline,
    host,
    main,
    note,
    show,
    table,
    until,
)

OSES = ("work", "play")
PROGRAMS = ROOT / "tests" / "help" / "programs"
EV_KEY = 1
LETTERS = {
    "q": 16, "w": 17, "e": 18, "r": 19, "t": 20, "y": 21, "u": 22, "i": 23, "o": 24, "p": 25,
    "a": 30, "s": 31, "d": 32, "f": 33, "g": 34, "h": 35, "j": 36, "k": 37, "l": 38,
    "z": 44, "x": 45, "c": 46, "v": 47, "b": 48, "n": 49, "m": 50,
}  # fmt: skip
NAMES = {code: letter for letter, code in LETTERS.items()}


class Hands:
    """A device made through uinput, and hands on it: tests/help/programs/typist.py."""

    def __init__(self, kind: str, name: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, PROGRAMS / "typist.py", kind, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.node = self._answer()

    def type(self, word: str) -> None:
        for letter in word:
            self._do(f"tap KEY_{letter.upper()}")

    def _do(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        if self._answer() != "ok":
            raise Failed(f"typist: {line}")

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        """Unplug the device. Twice is harmless."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(DEADLINE)


class Eyes:
    """What an OS reads from every device in its /dev/input: tests/help/programs/reader.py."""

    def __init__(self, name: str, path: Path) -> None:
        path.touch()
        self._path = path
        words = ("exec", name, "--", sys.executable, "-I", "-S", str(PROGRAMS / "reader.py"))
        with path.open("ab") as out:  # an OS's files are its own: it is handed this one
            self._process = subprocess.Popen(
                [HOSTSIM, *words, "/dev/stdout"], stdin=subprocess.DEVNULL, stdout=out
            )
        until(lambda: "ready" in path.read_text(), f"a reader in {name}")

    def word(self) -> str:
        """The letters it read, one for each press."""
        words = [line.split() for line in self._path.read_text().splitlines()]
        keys = [w for w in words if w[0] == "event" and w[2:3] == [str(EV_KEY)] and w[4] == "1"]
        return "".join(NAMES.get(int(w[3]), "?") for w in keys)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(DEADLINE)


def host_file(folder: str) -> str:
    """The shipped `duo`; where the machine has a keyboard or mouse of its own, a copy that leaves
    those alone."""
    names = [path.read_text() for path in Path("/sys/class/input").glob("event*/device/name")]
    if not any("Keyboard" in name or "Mouse" in name for name in names):
        return "duo"
    import hostsim

    text = (Path(hostsim.__file__).parent / "hosts" / "duo.toml").read_text()
    file = Path(folder) / "duo.toml"
    file.write_text(text.replace("*Keyboard*", "Demo Keyboard").replace("*Mouse*", "Demo Mouse"))
    note("this machine's own keyboard and mouse are left alone: a copy of duo names the demo's")
    return str(file)


def duo() -> None:
    headline("a multi-OS device: OSes work and play, one keyboard, one mouse")
    with tempfile.TemporaryDirectory() as folder:
        file = host_file(folder)
        hands = [Hands("keyboard", "Demo Keyboard"), Hands("mouse", "Demo Mouse")]
        note(f"through uinput: Demo Keyboard at {hands[0].node}, Demo Mouse at {hands[1].node}")
        try:
            with host("duo", file):
                until(lambda: len(ask("devices")) >= 2, "the KMC has both devices")
                eyes = {name: Eyes(name, Path(folder) / name) for name in OSES}
                try:
                    flips(hands[0], eyes)
                finally:
                    for reader in eyes.values():
                        reader.close()
        finally:
            for device in hands:
                device.close()


def flips(hands: Hands, eyes: dict[str, Eyes]) -> None:
    ways: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
        ("work", "hello", "(as the host file says)", ()),
        ("play", "from", "the command line", (HOSTSIM, "flip", "play")),
        (
            "work",
            "one",
            "the agent in play",
            (HOSTSIM, "exec", "play", "--", str(BIN / "hostsim-agent"), "flip", "work"),
        ),
        ("play", "keyboard", "a script", (str(ROOT / "scripts" / "flip.sh"), "play")),
    )
    read = dict.fromkeys(OSES, "")
    shown = table("foreground by", "typed", *OSES)
    for target, word, how, words in ways:
        if words:
            show(*words)
        hands.type(word)
        until(lambda: eyes[target].word().endswith(word), f"{target} reads {word!r}")  # noqa: B023
        now = {name: reader.word() for name, reader in eyes.items()}
        news = {name: now[name].removeprefix(read[name]) for name in OSES}
        read = now
        cells = [Text(news[name], style="green" if name == target else "red") for name in OSES]
        shown.add_row(how, word, *cells)
        if news != {name: word if name == target else "" for name in OSES}:
            raise Failed(f"typed {word!r} for {target}; read: {news}")
    console.print(shown)
    expect(True, "each word was read by the foreground OS, whole, and by no other")


if __name__ == "__main__":
    sys.exit(main(duo))
