"""Run ``python3 -m sf_training VERB``."""

import sys

from sf_training.cli import main

if __name__ == "__main__":
    sys.exit(main())
