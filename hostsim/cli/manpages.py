# SPDX-License-Identifier: Apache-2.0
"""Man pages of the command line, made from the texts that its --help has.

    pages(parser) -> {"hostsim.1": roff, "hostsim-up.1": roff, ...}

One page for the whole, and one for each command, and for each command of a command. Pure. The
format is man(7).
"""

import argparse
import re
from typing import Any

from hostsim.cli.grammar import wrapped

WIDTH = 76
"""Of a description's text, which is kept as --help shows it."""
DATA = "hostsim"
"""The manual that the pages belong to, in their heads."""


def pages(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Text of each page by its file's name."""
    name = parser.prog.replace(" ", "-")
    found = {f"{name}.1": _page(parser, parser.description or "", _texts(parser))}
    for sub in commands(parser).values():
        found |= pages(sub)
    return found


def commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of a parser's commands, by name."""
    return {name: sub for action in _verbs(parser) for name, sub in action.choices.items()}


def _texts(parser: argparse.ArgumentParser) -> dict[str, str]:
    """One line for each command."""
    return {
        str(choice.dest): choice.help or ""
        for action in _verbs(parser)
        for choice in action._choices_actions
    }


def _verbs(parser: argparse.ArgumentParser) -> "list[argparse._SubParsersAction[Any]]":
    """Where its commands are kept."""
    return [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]


def _page(parser: argparse.ArgumentParser, about: str, texts: dict[str, str]) -> str:
    title = parser.prog.replace(" ", "-")
    first = about.partition("\n")[0].strip().rstrip(".")
    lines = [
        f'.TH {escaped(title.upper())} 1 "" {DATA} ""',
        *(".SH NAME", f"{escaped(title)} \\- {escaped(first[:1].lower() + first[1:])}"),
        ".SH SYNOPSIS",
        ".nf",
        *map(escaped, parser.format_usage().removeprefix("usage: ").splitlines()),
        ".fi",
        ".SH DESCRIPTION",
        *(".nf", *map(escaped, wrapped(about, WIDTH)), ".fi"),
    ]
    if texts:
        lines.append(".SH COMMANDS")
        for name, text in texts.items():
            lines += _item(f"{title}-{name}(1)", text)
    told = [one for one in parser._actions if one.help is not argparse.SUPPRESS]
    verbs = _verbs(parser)
    for head, actions in (
        ("ARGUMENTS", [one for one in told if not one.option_strings and one not in verbs]),
        ("OPTIONS", [one for one in told if one.option_strings]),
    ):
        if actions:
            lines.append(f".SH {head}")
        for one in actions:
            lines += _item(_words(one), _help(parser, one))
    if parser.epilog:
        lines += [".SH NOTES", escaped(parser.epilog)]
    lines += [
        ".SH EXIT STATUS",
        escaped("0: done. 1: it failed, and one line on stderr says why. 2: wrong usage."),
    ]
    whole, *more = parser.prog.split()
    if more:
        lines += [".SH SEE ALSO", escaped(f"{whole}(1)")]
    return "\n".join(lines) + "\n"


def _item(term: str, text: str) -> list[str]:
    return [".TP", f"\\fB{escaped(term)}\\fR", escaped(text)]


def _words(action: argparse.Action) -> str:
    """An option or argument with its value, as --help has it."""
    value = action.metavar or (
        "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest
    )
    value = " ".join(value) if isinstance(value, tuple) else str(value)
    if not action.option_strings:
        return value
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {value}"


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """What --help says of it, with its values filled in; empty if it says nothing."""
    return parser._get_formatter()._expand_help(action) if action.help else ""


def escaped(text: str) -> str:
    """A line that troff shows as it is: no escape, no request at its beginning, and minus signs
    that can be copied."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^(?=[.'])", r"\\&", text) or "\\&"
