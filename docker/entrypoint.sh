#!/usr/bin/env bash
# The image's ROS 2 and this workspace, then the command. `exec`: the command gets the container's signals.
#   node PACKAGE EXECUTABLE ARGUMENTS...   the node itself, where `ros2 run` would pass no signal on
set -e
# shellcheck disable=SC1090
source "/opt/ros/$ROS_DISTRO/setup.bash"
source /workspace/docker/env.sh
if [ "${1:-}" = node ]; then
    package=$2 executable=$3
    shift 3
    exec "/workspace/install/$package/lib/$package/$executable" "$@"
fi
exec "$@"
