#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# flip.sh [OS]: makes OS the foreground, or, without one, the next OS in order.
#
# On the machine itself it asks the daemon (hostsim flip; root), inside an OS the KMC through the
# OS's agent socket (hostsim-agent). HOST in the environment picks a host if several are up.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
bin=$here/.venv/bin
[ -x "$bin/hostsim" ] || bin=$(dirname -- "$(command -v hostsim)")

if [ $# -gt 1 ]; then
    echo "usage: flip.sh [OS]" >&2
    exit 2
fi
if [ -S /run/hostsim/agent.sock ]; then
    if [ $# -eq 1 ]; then
        exec "$bin/hostsim-agent" flip "$1"
    fi
    exec "$bin/hostsim-agent" next
fi
set -- flip "${1-}"
if [ -z "$2" ]; then
    next='
import json, sys
status = json.load(sys.stdin)
names = [vm["name"] for vm in status["vms"] if vm["os"]]
here = names.index(status["foreground"]) + 1 if status["foreground"] in names else 0
print((names[here:] + names[:here])[0])
'
    # shellcheck disable=SC2086
    set -- flip "$("$bin/hostsim" ${HOST:+--host "$HOST"} status --json |
        "$bin/python" -c "$next")"
fi
exec "$bin/hostsim" ${HOST:+--host "$HOST"} "$@"
