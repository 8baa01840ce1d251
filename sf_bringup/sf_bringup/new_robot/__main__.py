"""Entry point of ``python3 -m sf_bringup.new_robot``."""

import sys

from sf_bringup.new_robot.command import main

sys.exit(main())
