"""The parameters of ``joint_trajectory_controller``, with its own names and defaults.

Source: ``joint_trajectory_controller_parameters.yaml`` of ros2_controllers 4.42.1 (Jazzy), 5.17.0
(Kilted) and master 94e74de35 (after 6.9.0); the defaults are the same in all three.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Replacement(StrEnum):
    """How a new trajectory replaces the current one."""

    REPLACE = "replace"
    """In the next cycle: 4.x, 5.x, 6.0 to 6.7, and later versions with
    ``allow_trajectory_replacement: false``.
    """
    DEFER = "defer"
    """At its stamp if that is in the future, else in the next cycle: 6.8 and 6.9 with ``true``,
    their default.
    """
    RETIME = "retime"
    """One whose stamp is not in the future is shifted to start now: after 6.9.0 (426a09209) with
    ``true``, the default.
    """


@dataclass(frozen=True)
class ControllerParameters:
    """The parameters that the model uses; names and defaults are those of the controller.

    Tolerances are by joint name [rad or m]; 0 or absent: not enforced.
    """

    interpolate_from_desired_state: bool = False
    interpolation_method: str = "splines"
    allow_nonzero_velocity_at_trajectory_end: bool = False
    set_last_command_interface_value_as_state_on_activation: bool = True
    cmd_timeout: float = 0.0
    goal_time: float = 0.0
    """``constraints.goal_time`` [s]."""
    trajectory_tolerance: Mapping[str, float] = field(default_factory=dict)
    """``constraints.<joint>.trajectory``."""
    goal_tolerance: Mapping[str, float] = field(default_factory=dict)
    """``constraints.<joint>.goal``."""
    replacement: Replacement = Replacement.REPLACE
    positions_upsampling: bool = False
    """``positions_upsampling.enable``, after 6.9.0: velocities for messages without any."""
    policy_frequency: float = 0.0
    """``positions_upsampling.policy_frequency`` [Hz]: times for messages without any."""
    continuous: frozenset[str] = frozenset()
    """Joints of type continuous in the URDF: their angles wrap around."""

    @property
    def timeout(self) -> float:
        """The effective ``cmd_timeout`` [s]: 0 if it is not longer than ``goal_time``
        (``on_activate``).
        """
        return self.cmd_timeout if self.cmd_timeout > self.goal_time else 0.0
