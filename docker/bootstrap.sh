#!/usr/bin/env bash
# Set up the workspace on a bare Debian 12 machine with Python 3.11 and gcc: .venv, ROS 2, the
# machine-learning packages and the colcon build. A step is skipped while its inputs are unchanged,
# so a second run takes a second.
#
#   docker/bootstrap.sh            do the missing steps
#   docker/bootstrap.sh --check    print the missing steps, change nothing; exit status 1 if any
#   docker/bootstrap.sh --packages all steps but the colcon build (a layer of the image that changed
#                                  sources do not invalidate)
#
# Variables: PYTHON           interpreter of a new virtual environment
#                             (default: python3.11, python3.12 or python3)
#            ROS_WHEELS       distribution of the ROS 2 wheels in a new virtual environment: kilted
#                             or jazzy (default: kilted; an existing environment keeps its own)
#            TORCH_INDEX_URL  package index of torch alone, for a CUDA version or the CPU build
#                             (default: the index of pip)
#
# A sourced ROS 2 is used (virtual environment with system site packages). Without one, ROS 2 comes
# from the wheels on PyPI.
# System packages, installed with apt only where the thing itself is missing:
#   cmake make g++ python3-dev   build the interfaces of sf_msgs, which are C and C++ libraries
#   python3-venv                 makes the virtual environment
#   libegl1 libegl-mesa0 libgl1-mesa-dri libgl1
#                                render the simulated cameras without a screen (or libosmesa6)
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
here=$root/docker
venv=$root/.venv
stamps=$venv/.stamps
logs=$root/log/bootstrap
needed_mb=4096
check=no
builds=yes
case "${1:-}" in
    "") ;;
    --check) check=yes ;;
    --packages) builds=no ;;
    *) sed -n '2,24p' "$0" | cut -c3-; exit 2 ;;
esac

say() { echo "bootstrap: $*"; }
stop() { echo "bootstrap: $*" >&2; exit 1; }
hash_of() { cat -- "$@" | sha256sum | cut -c1-16; }

# One bootstrap at a time in a workspace. The lock is the open folder, so no lock file is left.
exec 9<"$root"
if ! flock -n 9; then
    say "another one is at work in $root: waiting for it."
    flock 9
fi

# --- a step: skipped when its stamp holds the key, else run with its output in a log --------------

missing=0
worked=no
started=$SECONDS

# Remove the warnings of pip about folders in an index listing: thousands of lines on some machines.
without_noise() { grep -vE "WARNING: Location .* is (ignored|being ignored)|^$" "$@" || true; }

# Print a line of progress: every second on a terminal; elsewhere after 5 s and every half minute.
watch_log() {
    local title=$1 log=$2 begin=$SECONDS last
    while sleep 1; do
        [ -t 1 ] || [ $((SECONDS - begin)) -eq 5 ] || [ $(((SECONDS - begin) % 30)) -eq 0 ] ||
            continue
        last=$(tail -c 4000 "$log" 2>/dev/null | tr '\r' '\n' | without_noise |
            grep -v WARNING | tail -n 1 | cut -c1-80) || true
        case $last in "Starting >>> "*)  # minutes for sf_msgs: add the last line of its own log
            last+=" $(tail -n 1 "$root/log/latest_build/${last##* }/stdout.log" 2>/dev/null |
                cut -c1-50)" || true ;;
        esac
        if [ -t 1 ]; then printf '\r\033[K  %s, %d s: %s' "$title" $((SECONDS - begin)) "$last"
        else echo "  $title, $((SECONDS - begin)) s: $last"; fi
    done
}

# Arguments: name, title, key ("... again": run it whatever the stamp holds), stamp file, command...
step() {
    local name=$1 title=$2 key=$3 stamp=$4 begin=$SECONDS code=0 watcher
    shift 4
    if [ "$(cat "$stamp" 2>/dev/null)" = "$key" ]; then return; fi
    if [ $check = yes ]; then
        say "to do: $title"
        missing=1
        return
    fi
    rm -f "$stamp"
    mkdir -p "$logs"
    local log=$logs/$name.log
    : >"$log"
    watch_log "$title" "$log" 9<&- &
    watcher=$!
    # shellcheck disable=SC2064
    trap "kill $watcher 2>/dev/null || true; echo; stop 'interrupted in the step: $title'" INT TERM
    "$@" >"$log" 2>&1 9<&- || code=$?
    kill $watcher 2>/dev/null || true
    wait $watcher 2>/dev/null || true
    trap - INT TERM
    [ ! -t 1 ] || printf '\r\033[K'
    if [ $code -ne 0 ]; then
        without_noise "$log" | tail -n 25 >&2
        if grep -q "No space left on device" "$log"; then
            stop "the step failed: $title: the disk is full;" \
                "about $needed_mb MB are needed in $root."
        fi
        stop "the step failed: $title (exit status $code after $((SECONDS - begin)) s)." \
            "The lines above end its log, $log."
    fi
    mkdir -p "$(dirname "$stamp")"
    echo "${key% again}" >"$stamp"
    worked=yes
    say "$title: $((SECONDS - begin)) s"
}

# --- which Python, which ROS 2 --------------------------------------------------------------------

sourced_ros() { # the prefix of a sourced ROS 2; our own wheels do not count
    local prefix
    while IFS= read -r -d: prefix; do
        case "$prefix" in "" | "$root"/*) continue ;; esac
        if [ -e "$prefix/share/ament_index/resource_index/packages/rclpy" ]; then
            echo "$prefix"
            return
        fi
    done <<<"${AMENT_PREFIX_PATH:-}:"
}

version_of() { "$1" -S -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null; }

choose_python() { # sets python
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        python=$PYTHON
    elif [ -n "$ros" ]; then
        python=/usr/bin/python3 # the one that ROS 2 was built for
    else
        python=
        for candidate in python3.11 python3.12 python3; do
            if version_of "$candidate" >/dev/null; then python=$candidate; break; fi
        done
    fi
    # The newest wheels of ROS 2 are those for Python 3.13; Lyrical runs under 3.14.
    local version='' newest=${ros:+3.14}
    newest=${newest:-3.13}
    [ -z "$python" ] || version=$(version_of "$python") || true
    case "$version" in
        3.1[1-3].*) return ;;
        3.14.*) [ -z "$ros" ] || return 0 ;;
        "") stop "no Python was found${PYTHON:+ at $PYTHON}: install Python 3.11 or name one with" \
            "PYTHON=/path/to/python3.11." ;;
    esac
    stop "$python is Python $version, and 3.11 to $newest is needed: name another with" \
        "PYTHON=/path/to/python3.11."
}

ros=
[ -z "${ROS_DISTRO:-}" ] || ros=$(sourced_ros)
kind_was=$(cat "$stamps/kind" 2>/dev/null) || true
# Older versions wrote no distribution.
[ "$kind_was" != "ROS 2 from wheels" ] || kind_was="ROS 2 kilted from wheels"
if [ -n "$ros" ]; then
    kind="ROS 2 $ROS_DISTRO in $ros"
else
    wheels=${ROS_WHEELS:-}
    [ -n "$wheels" ] || wheels=$(sed -nE 's/^ROS 2 (.*) from wheels$/\1/p' <<<"$kind_was")
    wheels=${wheels:-kilted}
    [ -f "$here/requirements-ros-$wheels.txt" ] ||
        stop "ROS_WHEELS: '$wheels' is unknown; give one of$(cd "$here" &&
            printf ' %s' requirements-ros-*.txt | sed -E 's/requirements-ros-|\.txt//g')."
    kind="ROS 2 $wheels from wheels"
fi
if [ -n "$kind_was" ] && [ "$kind_was" != "$kind" ]; then
    stop "$venv was made with $kind_was, and now it would be $kind:" \
        "run 'make distclean' to change over, or open a shell as before."
fi
# Scripts of a virtual environment hold its path: after the folder was moved, make it anew.
if [ $check = no ] && [ -f "$venv/bin/pip" ] && ! grep -qF "$venv/bin/python" "$venv/bin/pip"; then
    say "$venv was made in another folder: making it anew."
    rm -rf "$venv" "$root/build" "$root/install"
fi
python=$venv/bin/python
[ -x "$python" ] && version_of "$python" >/dev/null || choose_python

# --- system packages: checked by what they provide, however they were installed -------------------

lacking() { # names of the apt packages to install
    local command
    for command in cmake make g++; do command -v "$command" >/dev/null || echo "$command"; done
    "$python" -S - <<'PYTHON'
import ctypes, importlib.util, os, sysconfig

def library(name):
    try:
        return bool(ctypes.CDLL(name))
    except OSError:
        return False

if not importlib.util.find_spec("ensurepip"):
    print("python3-venv")
if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    print("python3-dev")
egl = library("libEGL.so.1") and (library("libEGL_mesa.so.0") or library("libEGL_nvidia.so.0"))
if not (egl or library("libOSMesa.so.8")):
    print("libegl1 libegl-mesa0 libgl1-mesa-dri libgl1")
PYTHON
}

install_packages() {
    local as_root=
    [ "$(id -u)" -eq 0 ] || as_root=sudo
    $as_root apt-get update -q || return
    DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -q --no-install-recommends "$@"
}

system_packages() {
    local packages
    packages=$(lacking | tr '\n' ' ')
    [ -n "$packages" ] || return 0
    if [ $check = no ]; then
        command -v apt-get >/dev/null ||
            stop "missing on this machine: $packages(names of Debian packages):" \
                "install them and run this again."
        [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null ||
            stop "missing on this machine: ${packages% }, and this user has no sudo:" \
                "ask for 'apt-get install $packages' and run this again."
    fi
    # shellcheck disable=SC2086
    step apt "system packages: ${packages% }" "$packages$SECONDS" "$venv/.stamps/apt" \
        install_packages $packages
}

# --- the steps ------------------------------------------------------------------------------------
# Each command has `|| return`: bash ignores set -e in a function whose status is tested.

enough_disk() {
    local free
    free=$(df --output=avail -m "$root" | tail -n 1 | tr -d ' ')
    [ "$free" -ge $needed_mb ] ||
        stop "$free MB are free in $root and about $needed_mb MB are needed:" \
            "free some space or clone elsewhere."
}

make_venv() {
    [ -x "$venv/bin/pip" ] || "$python" -m venv ${ros:+--system-site-packages} "$venv" || return
    touch "$venv/COLCON_IGNORE"
    mkdir -p "$stamps"
    echo "$kind" >"$stamps/kind"
}

pip_install() {
    "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off "$@"
}

install_torch() {
    # First and alone: later steps then find it installed and cannot choose another build.
    # Without its own constraint: pip would report a version that it cannot find as a conflict.
    pip_install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} \
        -c <(grep -v '^torch==' "$here/constraints.txt") "$torch"
}

install_requirements() {
    pip_install -c "$here/constraints.txt" \
        -r "$here/requirements.txt" -r "$here/requirements-colcon.txt" \
        ${ros:+-r "$here/requirements-installed-ros.txt"} || return
    pip_install --no-deps -r "$here/requirements-no-deps.txt" || return
    local name
    for name in torchvision timm; do
        if "$venv/bin/python" -c \
            "import importlib.util as u, sys; sys.exit(u.find_spec('$name') is None)"; then
            echo "$name is installed in $venv and breaks the import of transformers on a CPU" \
                "build of torch: find the requirement that brought it ('pip show $name')" \
                "and drop that one."
            return 1
        fi
    done
}

install_ros_wheels() {
    pip_install -c "$here/constraints.txt" -c "$here/constraints-ros-$wheels.txt" \
        -r "$here/requirements-ros-$wheels.txt" || return
    "$venv/bin/python" "$here/fix_ros_wheels.py"
}

build() {
    # Build on the underlay of this workspace alone, without overlays of earlier or other builds.
    [ -n "$ros" ] || export AMENT_PREFIX_PATH=$venv CMAKE_PREFIX_PATH=$venv
    [ -n "$ros" ] || unset PYTHONPATH
    export VIRTUAL_ENV=$venv PATH=$venv/bin:$PATH MAKEFLAGS=-j2
    cd "$root"
    # Run colcon by the interpreter of .venv: console scripts get the interpreter that runs colcon.
    "$venv/bin/python" -c 'from colcon_core.command import main; raise SystemExit(main())' build \
        --base-paths sf_msgs sf_policy_node sf_training sf_bringup --symlink-install \
        --event-handlers console_direct- console_cohesion- console_stderr+ desktop_notification-
}

# A build depends on the interfaces, the manifests, and the names of the files that are linked.
build_inputs() {
    cd "$root"
    find sf_msgs -type f -print0 | sort -z | xargs -0 sha256sum
    cat colcon.meta sf_*/package.xml sf_*/setup.py sf_*/setup.cfg
    find sf_bringup/launch sf_bringup/config -type f ! -path '*/__pycache__/*' 2>/dev/null |
        sort || true
}

if [ $check = no ] && [ ! -e "$stamps/packages" ]; then enough_disk; fi
system_packages
key_venv=$(echo "$kind $root" | hash_of)
step venv "virtual environment with Python $(version_of "$python")" "$key_venv" "$stamps/venv" \
    make_venv
torch=$(grep '^torch==' "$here/constraints.txt")
key=$(echo "$key_venv ${TORCH_INDEX_URL:-} $torch" | hash_of)
step torch "PyTorch, $torch" "$key" "$stamps/torch" install_torch
key=$(echo "$key" | hash_of - "$here/constraints.txt" "$here/requirements.txt" \
    "$here/requirements-colcon.txt" "$here/requirements-no-deps.txt" \
    ${ros:+"$here/requirements-installed-ros.txt"})
step packages "packages of docker/requirements.txt" "$key" "$stamps/packages" install_requirements
if [ -z "$ros" ]; then
    key=$(echo "$key" | hash_of - "$here/requirements-ros-$wheels.txt" \
        "$here/constraints-ros-$wheels.txt" "$here/fix_ros_wheels.py")
    step ros "$kind" "$key" "$stamps/ros" install_ros_wheels
fi
if [ $builds = no ]; then
    say "ready without the colcon build in $((SECONDS - started)) s with $kind."
    exit 0
fi
key=$({ echo "$key"; build_inputs; declare -f build; } | hash_of -)
[ -f "$root/install/local_setup.bash" ] || key+=" again"
step build "colcon build of the four packages" "$key" "$root/build/.stamp" build

[ $missing -eq 0 ] || exit 1
if [ $worked = yes ]; then
    say "ready in $((SECONDS - started)) s with $kind. Next: source docker/env.sh, or make demo."
fi
