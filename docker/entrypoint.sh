#!/usr/bin/env bash
# The image's ROS 2 and this workspace, then the command.
set -e
source /opt/ros/jazzy/setup.bash
source /workspace/docker/env.sh
exec "$@"
