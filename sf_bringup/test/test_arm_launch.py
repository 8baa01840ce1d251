"""Tests of the launch file with ``launch``: the same graph as ``up``.

Skipped where ROS 2 came from wheels, which lack it.
"""

import pytest

pytest.importorskip(
    "launch_ros", reason="launch_ros is not on PyPI; it comes with an installed ROS 2"
)
launch_pytest = pytest.importorskip(
    "launch_pytest", reason="launch_pytest is not on PyPI; it comes with an installed ROS 2"
)

from pathlib import Path  # noqa: E402

from ament_index_python.packages import get_package_share_directory  # noqa: E402
from launch import LaunchDescription  # noqa: E402
from launch.actions import IncludeLaunchDescription  # noqa: E402
from launch.launch_description_sources import PythonLaunchDescriptionSource  # noqa: E402
from launch_pytest.actions import ReadyToTest  # noqa: E402

from sf_bringup.arm_client import ArmClient  # noqa: E402
from sf_bringup.graph import find_robot  # noqa: E402
from sf_policy_node.contract import load_contract  # noqa: E402
from sf_policy_node.ros_testing import free_domain  # noqa: E402

PATIENCE_S = 300.0  # wall time limit of a condition: reached only by a hang
pytestmark = [pytest.mark.ros, pytest.mark.timeout(PATIENCE_S + 60)]
LAUNCH_FILE = Path(get_package_share_directory("sf_bringup"), "launch", "arm.launch.py")


@pytest.fixture(scope="module", autouse=True)
def _domain():
    with pytest.MonkeyPatch.context() as patch, free_domain() as domain:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        yield


@launch_pytest.fixture(scope="module")
def arm_launch(_domain):
    """Return the launch file with the simulated arm and no policy."""
    arguments = {"robot": "sim_arm", "policy": "none", "seed": "7"}
    source = PythonLaunchDescriptionSource(str(LAUNCH_FILE))
    return LaunchDescription(
        [IncludeLaunchDescription(source, launch_arguments=arguments.items()), ReadyToTest()]
    )


@pytest.mark.launch(fixture=arm_launch)
def test_the_arm_and_the_executor_respond():
    client = ArmClient(load_contract(find_robot("sim_arm")))
    try:
        client.wait_for_arm(PATIENCE_S)
        client.wait_for_executor(PATIENCE_S)
        assert client.task.seed == 7
        before = client.simulated_time
        client.wait_until(
            lambda: client.simulated_time > before + 0.5, PATIENCE_S, "simulated time stands still"
        )
    finally:
        client.close()
