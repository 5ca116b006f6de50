# SPDX-License-Identifier: Apache-2.0
"""Taking down what was built: step by step, newest first, each step whatever the others raise.

    closing = Teardown("host edge")
    closing.push("switch", switch.close)    as soon as there is something to close
    closing.close()                         or `await closing.aclose()`, once steps are coroutines

contextlib.ExitStack runs every step too, but the error that comes out of it is the last one, and
names no step. Here it is the first one, with the step's name; the others are logged.
"""

import inspect
import logging
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from hostsim.errors import HostsimError, reason

log = logging.getLogger("hostsim.teardown")

T = TypeVar("T")


class Step(NamedTuple):
    """One thing to take down. blocks: it may take long, and runs in a thread if a loop waits."""

    name: str
    run: Callable[[], Any]
    blocks: bool


class Teardown:
    """The steps that take down `what`, which begins every error: "host edge"."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._steps: list[Step] = []
        self._failures: list[tuple[str, BaseException]] = []
        self._given_up = False

    def give_up(self) -> None:
        """What is being built in another thread is not wanted any more: `check` says so there."""
        self._given_up = True

    def check(self) -> None:
        """Raises HostsimError after `give_up`."""
        if self._given_up:
            raise HostsimError(self._what, "given up while it was being built")

    def push(self, name: str, step: Callable[[], Any], *, blocks: bool = False) -> None:
        """Have `step` run before all those that are there. A function, or for `aclose` one that
        returns a coroutine."""
        self._steps.append(Step(name, step, blocks))

    def close(self) -> None:
        """Run all steps. Twice is harmless. Raises HostsimError as the module says, and what is no
        Exception (KeyboardInterrupt) as it is."""
        while self._steps:
            step = self._steps.pop()
            try:
                step.run()
            except BaseException as error:
                self._failures.append((step.name, error))
        self._tell()

    async def aclose(self) -> None:
        """`close`, in the loop: waits for coroutines, and for what blocks. A task that is cancelled
        meanwhile runs the rest all the same."""
        while self._steps:
            step = self._steps.pop()
            try:
                done = await in_thread(step.run) if step.blocks else step.run()
                if inspect.isawaitable(done):
                    await done
            except BaseException as error:
                self._failures.append((step.name, error))
        self._tell()

    def _tell(self) -> None:
        failures, self._failures = self._failures, []
        for name, error in failures[1:]:
            log.error("%s: taking down %s: %s", self._what, name, reason(error), exc_info=error)
        for _, error in failures:
            if not isinstance(error, Exception):
                raise error
        if failures:
            name, error = failures[0]
            why, hint = reason(error), ""
            if isinstance(error, HostsimError):
                why, hint = f"{error.what}: {error.why}", error.hint
            raise HostsimError(f"{self._what}: taking down {name}", why, hint) from error


async def in_thread(function: Callable[[], T], hurry: Callable[[], None] = lambda: None) -> T:
    """Run `function` in a thread. A task that is cancelled meanwhile calls `hurry`, waits for the
    function's end all the same, and then is cancelled: nobody takes down what is still being
    made."""
    import asyncio  # who has no loop yet need not wait for it (ahead.py)

    running = asyncio.get_running_loop().run_in_executor(None, function)
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as error:
            cancelled = error
            hurry()
    if cancelled is not None:
        running.exception()  # it is lost with the task
        raise cancelled
    return running.result()
