"""A person moves the arm: devices with a dead-man switch, and recorded episodes sent again."""
