"""Let the operator control the recorder: keys, gamepad buttons, terminal view."""
