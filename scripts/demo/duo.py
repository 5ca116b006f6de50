# SPDX-License-Identifier: Apache-2.0
"""The demo of host `duo`: two operating systems, one keyboard and one screen, and three ways to
flip.

    duo.py [--no-screen]

It runs in the test VM, whose screen QEMU shows (tests/help/desk.py). Without the screen any machine
that has uinput will do."""

import subprocess
import sys
import tempfile
from contextlib import ExitStack, closing
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
    ours,
    saw,
    show,
    table,
    until,
)

sys.path.insert(0, str(ROOT / "tests"))
from help.desk import Desk
from help.programs import PROGRAMS
from help.rig import Typist

OSES = ("work", "play")
COLOURS = {"work": "00aa00", "play": "aa0000"}
"""What each OS's program fills the screen with."""
EV_KEY = 1
LETTERS = {
    "q": 16, "w": 17, "e": 18, "r": 19, "t": 20, "y": 21, "u": 22, "i": 23, "o": 24, "p": 25,
    "a": 30, "s": 31, "d": 32, "f": 33, "g": 34, "h": 35, "j": 36, "k": 37, "l": 38,
    "z": 44, "x": 45, "c": 46, "v": 47, "b": 48, "n": 49, "m": 50,
}  # fmt: skip
NAMES = {code: letter for letter, code in LETTERS.items()}


def type_word(keyboard: Typist, word: str) -> None:
    for letter in word:
        line = f"tap KEY_{letter.upper()}"
        if keyboard(line) != "ok":
            raise Failed(f"typist: {line}")


class Eyes:
    """What an OS reads from every device in its /dev/input: tests/help/programs/reader.py."""

    def __init__(self, name: str, path: Path) -> None:
        path.touch()
        self._path = path
        words = ("exec", name, "--", sys.executable, "-I", "-S", str(PROGRAMS / "reader.py"))
        with path.open("ab") as out:  # an OS's files are its own: it is handed this one
            self._process = subprocess.Popen(
                ours(HOSTSIM, *words, "/dev/stdout"), stdin=subprocess.DEVNULL, stdout=out
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


class Painter:
    """A program in an OS that fills the screen: tests/help/programs/seatclient.py."""

    def __init__(self, name: str, log: Path) -> None:
        words = ("exec", name, "--", sys.executable, str(PROGRAMS / "seatclient.py"), COLOURS[name])
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                ours(HOSTSIM, *words), stdin=subprocess.PIPE, stdout=out, stderr=out
            )
        until(lambda: "ready" in log.read_text(), f"a program with the seat of {name}")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(DEADLINE)
        assert self._process.stdin is not None
        self._process.stdin.close()


def host_file(folder: str, screen: bool) -> str:
    """The shipped `duo`, with the demo's keyboard and mouse alone; with the screen if asked."""
    import hostsim

    text = (Path(hostsim.__file__).parent / "hosts" / "duo.toml").read_text()
    text = text.replace("*Keyboard*", "Demo Keyboard").replace("*Mouse*", "Demo Mouse")
    file = Path(folder) / "duo.toml"
    if screen:
        text += '\n[[device]]\nmatch = { screen = "card0" }\n'
    file.write_text(text)
    also = ', and match = { screen = "card0" }' if screen else ""
    note(f"a copy of duo: the demo's own keyboard and mouse{also}")
    return str(file)


def duo() -> None:
    screen = "--no-screen" not in sys.argv
    also = ", one screen" if screen else ""
    headline(f"a multi-OS device: OSes work and play, one keyboard, one mouse{also}")
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        desk = stack.enter_context(closing(Desk())) if screen else None
        file = host_file(folder, screen)
        keyboard = Typist("keyboard", "Demo Keyboard")
        stack.callback(keyboard.unplug)
        mouse = Typist("mouse", "Demo Mouse")
        stack.callback(mouse.unplug)
        note(f"through uinput: Demo Keyboard at {keyboard.node}, Demo Mouse at {mouse.node}")
        stack.enter_context(host("duo", file))
        until(lambda: len(ask("devices")) >= 2, "the KMC has both devices")
        eyes = {}
        for name in OSES:
            eyes[name] = stack.enter_context(closing(Eyes(name, Path(folder) / name)))
            if screen:
                stack.enter_context(closing(Painter(name, Path(folder) / f"{name}.painter")))
        flips(keyboard, eyes, desk)


def flips(keyboard: Typist, eyes: dict[str, Eyes], desk: Desk | None) -> None:
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
    seen = ["on the screen"] if desk is not None else []
    shown = table("foreground by", "typed", *(f"{name} reads" for name in OSES), *seen)
    for target, word, how, words in ways:
        if words:
            show(*words)
        type_word(keyboard, word)
        until(lambda: eyes[target].word().endswith(word), f"{target} reads {word!r}")  # noqa: B023
        now = {name: reader.word() for name, reader in eyes.items()}
        news = {name: now[name].removeprefix(read[name]) for name in OSES}
        read = now
        cells = [Text(news[name], style="green" if name == target else "red") for name in OSES]
        if desk is not None:
            colour = COLOURS[target]
            until(lambda: desk.only(colour), f"the screen is {target}'s")  # noqa: B023
            cells.append(Text("      ", style=f"on #{colour}") + Text(f" {target}'s alone"))
        shown.add_row(how, word, *cells)
        if news != {name: word if name == target else "" for name in OSES}:
            raise Failed(f"typed {word!r} for {target}; read: {news}")
    console.print(shown)
    expect(True, "each word was read by the foreground OS, whole, and by no other")
    if desk is not None:
        expect(True, "after each flip every pixel of the screen was the foreground OS's (by QEMU)")
    saw(
        f"flips; keys{' or pixels' if desk is not None else ''} of another OS",
        f"{len(ways) - 1}; 0",
        "hostsim flip NAME",
    )


if __name__ == "__main__":
    sys.exit(main(duo))
