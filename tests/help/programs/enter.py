# SPDX-License-Identifier: Apache-2.0
"""What `hostsim exec` does once the daemon has answered.

enter.py TARGET WORD...   TARGET: the answer, in JSON
"""

import json
import sys

from hostsim.cli import enter
from hostsim.errors import HostsimError

try:
    sys.exit(enter.enter(json.loads(sys.argv[1]), sys.argv[2:]))
except HostsimError as error:
    print(f"hostsim: {error}", file=sys.stderr)
    sys.exit(error.status)
