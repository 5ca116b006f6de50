# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What scripts/run, scripts/test and scripts/testvm share: installs what is missing (apt packages,
# the .venv in the project root, the build), and does nothing twice.
#
# Sourced, not run. Offers ROOT (the project's directory), VENV, and the functions
#   setup GROUP...   the packages of these groups (scripts/packages), then .venv and build
#   as_root CMD...   CMD as root, through sudo where needed
#   have_uinput      whether input devices can be made here (else: the test VM)
#   say TEXT         a line for the person watching (stderr)
#   fail WHAT WHY    the project's error line, exit status 1

set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=$ROOT/.venv
STAMPS=$VENV/.hostsim
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_INPUT=1

say() {
    printf '%s\n' "$*" >&2
}

fail() {
    printf 'hostsim: %s: %s\n' "$1" "$2" >&2
    exit 1
}

# Whether this kernel has uinput, perhaps as a module that is loaded only now.
have_uinput() {
    [[ -c /dev/uinput ]] || as_root modprobe -q -a uinput evdev || return 1
    [[ -c /dev/uinput ]]
}

# step TEXT CMD...: runs CMD with its output in a log; a line before, and the time after. When it
# fails, the end of the log.
step() {
    local text=$1 log status=0 start=$SECONDS
    shift
    log=$(mktemp "${TMPDIR:-/tmp}/hostsim-step.XXXXXX")
    printf '%s ... ' "$text" >&2
    "$@" </dev/null >"$log" 2>&1 || status=$?
    if ((status)); then
        printf 'failed (exit status %d)\n' "$status" >&2
        tail -n 30 "$log" >&2
        rm -f "$log"
        fail "$text" "failed, see the lines above"
    fi
    rm -f "$log"
    printf '%d s\n' $((SECONDS - start)) >&2
}

as_root() {
    if ((EUID == 0)); then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "$1" "needs root, and there is no sudo; run this as root"
    fi
}

# One word per installed package, with a space on both sides of each.
installed_packages() {
    printf ' '
    dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' | sed -n 's/^ii *//p' | tr '\n' ' '
}

# Prints each line of scripts/packages in GROUP... of which no alternative is installed.
missing_packages() {
    local group names name have
    have=$(installed_packages)
    while read -r group names; do
        [[ " $* " == *" $group "* ]] || continue
        for name in ${names//|/ }; do
            [[ $have == *" $name "* ]] && continue 2
        done
        printf '%s\n' "$names"
    done < <(grep -v '^#' "$ROOT/scripts/packages")
}

# Of alternatives "a|b", the first that apt can install.
installable() {
    local name
    for name in ${1//|/ }; do
        if [[ $(apt-cache policy "$name") == *"Candidate: "[!\(]* ]]; then
            printf '%s\n' "$name"
            return
        fi
    done
    fail "package ${1//|/ or }" "this distribution's apt does not have it; see scripts/packages"
}

# Whether this machine boots a kernel of its own /boot, which then needs an initial file system. A
# container has neither kernel nor boot loader there.
boots_from_here() {
    compgen -G '/boot/vmlinu*' >/dev/null ||
        [[ -d /boot/grub || -d /boot/efi || -d /boot/loader || -d /boot/extlinux || -d /efi ]]
}

setup_packages() {
    local missing names=() line
    if ! command -v dpkg-query >/dev/null; then
        say "hostsim: not a Debian or Ubuntu system: install what scripts/packages names by hand"
        return
    fi
    missing=$(missing_packages "$@")
    [[ -n $missing ]] || return 0
    if ((EUID != 0)) && ! command -v sudo >/dev/null; then
        fail "missing packages" "$(tr '\n' ' ' <<<"$missing"); no root and no sudo to install them"
    fi
    local apt=(env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a)
    # Made twice on a bare root, in half of the time that all packages take; the test VM has its own.
    boots_from_here || apt+=(INITRD=No)
    apt+=(apt-get -q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
    step "reading apt's package lists" as_root "${apt[@]}" update
    while read -r line; do
        line=$(installable "$line") || exit 1
        names+=("$line")
    done <<<"$missing"
    step "installing ${names[*]}" as_root "${apt[@]}" install --no-install-recommends "${names[@]}"
}

# A python3 that is new enough, can make a virtual environment and has its headers. The system's
# comes first: one in a home directory is out of reach for other users.
find_python() {
    local python
    for python in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
        if "$python" - 2>/dev/null <<'PY'; then
import ensurepip, os, sys, sysconfig, venv
header = os.path.join(sysconfig.get_path("include"), "Python.h")
sys.exit(not (sys.version_info >= (3, 11) and os.path.exists(header)))
PY
            "$python" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    fail "python" "none here is 3.11 or newer with venv and headers; $(python3 --version 2>&1 ||
        printf 'there is no python3'); Debian 12, 13 and Ubuntu 24.04 have one: python3-dev python3-venv"
}

# Hash of everything the build reads: path and contents; and whether the libraries are there that a
# program each is built with only if they are.
sources_hash() {
    (
        cd "$ROOT"
        find hostsim netns cext pyproject.toml meson.build meson.options README.md LICENSE tests/c \
            \( -name __pycache__ -prune \) -o -type f -print0 2>/dev/null |
            sort -z | xargs -0 sha256sum
        readlink -f "$VENV/bin/python"
        for library in libseat libdpdk; do
            pkg-config --modversion "$library" 2>/dev/null || printf 'no %s\n' "$library"
        done
    ) | sha256sum | cut -d' ' -f1
}

requirements_hash() {
    {
        sed -n '/^\[build-system\]/,/^\[tool\./p' "$ROOT/pyproject.toml"
        readlink -f "$VENV/bin/python"
    } | sha256sum | cut -d' ' -f1
}

make_venv() {
    local python
    python=$(find_python) || exit 1
    rm -rf "$VENV" "$ROOT/build"
    "$python" -m venv "$VENV"
}

# What the build and the project need, by name, as pyproject.toml lists it.
install_requirements() {
    local -a wanted
    mapfile -t wanted < <("$VENV/bin/python" - "$ROOT/pyproject.toml" <<'PY'
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)
print(*project["build-system"]["requires"], "ninja", *project["project"]["dependencies"],
      *project["project"]["optional-dependencies"]["test"], sep="\n")
PY
    )
    "$VENV/bin/pip" install --progress-bar off "${wanted[@]}"
}

build_project() {
    command -v clang >/dev/null ||
        fail "clang" "not found; the BPF programs are compiled with it; install the package clang"
    PATH=$VENV/bin:$PATH "$VENV/bin/pip" install --progress-bar off --no-build-isolation \
        --no-deps --force-reinstall --config-settings=build-dir=build "$ROOT"
}

setup_venv() {
    local hash
    "$VENV/bin/python" -c '' 2>/dev/null || step "making .venv" make_venv
    mkdir -p "$STAMPS"
    hash=$(requirements_hash)
    if [[ $hash != "$(cat "$STAMPS/requirements" 2>/dev/null)" ]]; then
        step "installing Python packages into .venv" install_requirements
        printf '%s' "$hash" >"$STAMPS/requirements"
    fi
    hash=$(sources_hash)
    if [[ $hash != "$(cat "$STAMPS/build" 2>/dev/null)" ]]; then
        step "building hostsim" build_project
        printf '%s' "$hash" >"$STAMPS/build"
    fi
}

# Two scripts started at once: the second waits, and then finds everything done.
setup() {
    setup_packages "$@"
    exec {lock}<"$ROOT/scripts/packages"
    flock "$lock"
    setup_venv
    exec {lock}<&-
}
