"""The vision-language-action model, its checkpoints, and remote policies. No ROS."""
