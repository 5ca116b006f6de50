# SPDX-License-Identifier: Apache-2.0
"""Who comes first if the process does: lowered here, which anybody may."""

import json
import subprocess
import sys

PROGRAM = """
import json, os, threading
from netns import priority

begun = threading.Barrier(6)
end = threading.Event()
numbers = {}

def thread(name, before):
    before()
    numbers[name] = threading.get_native_id()
    begun.wait(20)
    end.wait(20)

made = {
    "plain": lambda: None,
    "own": lambda: os.setpriority(os.PRIO_PROCESS, 0, 7),
    "batch": lambda: os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)),
    "reset": lambda: os.sched_setscheduler(0, os.SCHED_RESET_ON_FORK, os.sched_param(0)),
    "behind": priority.stay_behind,
}
threads = [threading.Thread(target=thread, args=one) for one in made.items()]
for one in threads:
    one.start()
begun.wait(20)
priority.come_first(5)
numbers["main"] = os.getpid()
found = {name: os.getpriority(os.PRIO_PROCESS, one) for name, one in numbers.items()}
end.set()
print(json.dumps(found))
"""


def test_who_has_a_priority_of_its_own_keeps_it() -> None:
    words = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    before = json.loads(done.stdout)
    assert before == {"plain": 5, "own": 7, "batch": 0, "reset": 5, "behind": 0, "main": 5}
