"""The vision-language-action model. torch only: no ROS."""
