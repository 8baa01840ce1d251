#!/usr/bin/env bash
# Source ROS 2 and this workspace, then run the command. With `exec` the command receives the
# signals of the container.
#   node PACKAGE EXECUTABLE ARGUMENTS...   run a node directly: `ros2 run` does not forward signals
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
