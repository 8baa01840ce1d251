"""Set the hypothesis profile of all tests with generated inputs.

The conftest.py of every test folder imports this module. The examples are the same in every run, so
that results depend on the code alone. `SF_NEW_EXAMPLES=1` draws new ones.
"""

import os

from hypothesis import HealthCheck, settings

NEW_EXAMPLES = os.environ.get("SF_NEW_EXAMPLES", "0") == "1"

# No deadline: a slow machine is not a failure.
settings.register_profile(
    "suite",
    deadline=None,
    derandomize=not NEW_EXAMPLES,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")
