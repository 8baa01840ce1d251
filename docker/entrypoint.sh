#!/usr/bin/env bash
# Source ROS 2 and this workspace, then run the command. With `exec` the command receives the
# signals of the container.
#   node PACKAGE EXECUTABLE ARGUMENTS...   run a node directly: `ros2 run` does not forward signals
# ROS_NAMESPACE is the namespace of such a node. ROS 2 does not read this variable.
set -e
# shellcheck disable=SC1090
source "/opt/ros/$ROS_DISTRO/setup.bash"
source /workspace/docker/env.sh
if [ "${1:-}" = node ]; then
    package=$2 executable=$3
    shift 3
    namespace=${ROS_NAMESPACE#/}
    if [ -n "$namespace" ]; then  # with the remappings of sf_bringup.journeys.GLOBAL_TOPICS
        set -- "$@" --ros-args -r "__ns:=/$namespace" -r /clock:=clock -r /tf:=tf \
            -r /tf_static:=tf_static
    fi
    exec "/workspace/install/$package/lib/$package/$executable" "$@"
fi
exec "$@"
