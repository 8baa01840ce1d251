"""Entry point of ``python3 -m sf_bringup.doctor``."""

import sys

from sf_bringup.doctor.command import main

sys.exit(main())
