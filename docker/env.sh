# Set the environment of the workspace in this shell:   source docker/env.sh
# People, tests, CI and the demo use it. It works from any folder and may be sourced again.
# Values that are set before are kept: ROS_DOMAIN_ID, ROS_AUTOMATIC_DISCOVERY_RANGE,
# FASTDDS_DEFAULT_PROFILES_FILE.

_sf_root=$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")/.." && pwd)
_sf_venv=$_sf_root/.venv

# Put a folder at the front of a path variable, once.
_sf_prepend() {
    case ":${!1:-}:" in
        *":$2:"*) ;;
        *) export "$1=$2${!1:+:${!1}}" ;;
    esac
}

_sf_environment() {
    if [ ! -x "$_sf_venv/bin/python" ]; then
        echo "docker/env.sh: there is no $_sf_venv: run docker/bootstrap.sh first." >&2
        return 1
    fi
    if [ ! -d "$_sf_venv/share/ament_index" ] && [ -z "${ROS_DISTRO:-}" ]; then
        echo "docker/env.sh: this workspace was built with an installed ROS 2:" \
            "source its setup.bash first." >&2
        return 1
    fi

    if [ "${VIRTUAL_ENV:-}" != "$_sf_venv" ]; then
        # shellcheck disable=SC1091
        VIRTUAL_ENV_DISABLE_PROMPT=${VIRTUAL_ENV_DISABLE_PROMPT:-} . "$_sf_venv/bin/activate"
    fi

    if [ -d "$_sf_venv/share/ament_index" ]; then
        # ROS 2 from wheels. Unless these variables are set, the wheels restart every Python process
        # to set them, and debuggers and profilers then attach to the wrong process.
        local folder
        for folder in "$_sf_venv"/lib/python3*/site-packages/ros_*.libs "$_sf_venv/lib"; do
            _sf_prepend LD_LIBRARY_PATH "$folder"
        done
        export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
        _sf_prepend AMENT_PREFIX_PATH "$_sf_venv"
        _sf_prepend CMAKE_PREFIX_PATH "$_sf_venv"
    fi

    # Nothing leaves this host unless the operator asks for it: arms on one network must not receive
    # commands for each other.
    export ROS_AUTOMATIC_DISCOVERY_RANGE=${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}
    : "${FASTDDS_DEFAULT_PROFILES_FILE:=$_sf_root/docker/fastdds.xml}"
    export FASTDDS_DEFAULT_PROFILES_FILE
    # Before Kilted the variable has another name; Kilted warns about the old one.
    case "${ROS_DISTRO:-} $(cat "$_sf_venv/.stamps/kind" 2>/dev/null)" in
        *humble* | *iron* | *jazzy*)
            : "${FASTRTPS_DEFAULT_PROFILES_FILE:=$FASTDDS_DEFAULT_PROFILES_FILE}"
            export FASTRTPS_DEFAULT_PROFILES_FILE
            ;;
    esac

    # Keep the memory of freed images for the next ones. Otherwise each image is mapped anew, and a
    # receiver of 83 MB/s needs 3 times the processor time.
    export MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-33554432}
    export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-67108864}

    if [ -f "$_sf_root/install/local_setup.bash" ]; then
        # shellcheck disable=SC1091
        . "$_sf_root/install/local_setup.bash" 2>/dev/null
    fi
    return 0
}

# The scripts of venv and colcon read variables that may be unset.
case $- in
    *u*) set +u; _sf_environment; _sf_result=$?; set -u ;;
    *) _sf_environment; _sf_result=$? ;;
esac
unset -f _sf_environment _sf_prepend
unset _sf_root _sf_venv
# shellcheck disable=SC2154
[ "$_sf_result" -eq 0 ] && unset _sf_result
