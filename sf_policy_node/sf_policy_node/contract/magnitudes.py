"""Find numbers of a contract that are in a wrong unit, such as milliseconds instead of seconds.

The bounds are far above what any robot needs. Contracts in bags and checkpoints are read without
them: a recording stays usable, because no robot moves with its limits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from sf_policy_node.contract.checks import arm_key
from sf_policy_node.contract.sections import Arm, Budgets, Camera, Gripper, Joint
from sf_policy_node.contract.surroundings import CollisionCheck, Simulation

# Largest value of each key [s]. A value in milliseconds is above it.
_BUDGETS = {
    "observation_age_s": 5.0,
    "camera_skew_s": 2.0,
    "joint_state_age_s": 5.0,
    "gripper_age_s": 5.0,
    "chunk_age_s": 30.0,  # a large model on a CPU needs many seconds for a chunk
    "emergency_stop_age_s": 10.0,
    "hold_s": 60.0,
    "teleop_age_s": 5.0,
}
_STEP_S = 5.0
_CAMERA_HZ = (0.5, 1000.0)
# Bounds of joints by unit. Degrees are 57 times, millimetres 1000 times as many.
_TRACKING_ERROR = {"rad": 0.5, "m": 0.4}
_STEP, _STEP_FACTOR = {"rad": 1.0, "m": 0.5}, 6.0  # of the distance at full speed
_VELOCITY = {"rad": 30.0, "m": 20.0}
_ACCELERATION, _FASTEST_S = {"rad": 40.0, "m": 50.0}, 0.025  # from rest to full speed
_GRIPPER_POSITION = {"rad": 4.0 * math.pi, "m": 0.5}
_GRIPPER_VELOCITY = {"rad": 30.0, "m": 2.0}
_GRIPPER_ACCELERATION = {"rad": 100.0, "m": 50.0}
_EFFORT = 2000.0  # N
_TOOL_SPEED = 5.0  # m/s
_REACH = 20.0  # m, also of an arm on a rail or in a frame of a hall
_SURROUNDINGS = 50.0  # m
_TABLE = 5.0  # m
_RADIUS = 0.5  # m
_MILLISECONDS = "looks like milliseconds: give seconds"
_MILLIMETRES = "looks like millimetres: give metres"
_JOINT = {
    "rad": "looks like degrees: give radians, as in the URDF",
    "m": "looks like millimetres, or like a joint of unit: rad: give metres, as in the URDF",
}


def check_magnitudes(
    arms: Mapping[str, Arm],
    cameras: Sequence[Camera],
    step_s: float,
    budgets: Budgets,
    collision: CollisionCheck,
    simulation: Simulation,
) -> None:
    """Refuse sections of a contract with numbers that no robot has in the contract's units.

    Args:
        step_s: of the action space.

    Raises:
        ValueError: with key, value, bound and the unit that was probably meant, for each of them.
    """
    problems = list(_budgets(budgets))
    if step_s > _STEP_S:
        problems.append(
            f"action.step_s: {step_s:g} s is above {_STEP_S:g} s and looks like"
            " milliseconds or a rate in Hz: give seconds"
        )
    for camera in cameras:
        problems += _camera(camera)
    for name, arm in arms.items():
        problems += _arm(arm_key(arms, name, ""), arm, step_s)
    problems += [*_collision(collision), *_simulation(simulation)]
    if problems:
        raise ValueError("; ".join(problems))


def _above(
    key: str, value: float | None, bound: float, unit: str, guess: str, shown: str = ""
) -> Iterator[str]:
    """Yield a sentence if an absolute value is above its bound.

    Args:
        guess: which unit the value looks like, and the cure.
        shown: what the bound is; default its value.
    """
    if value is not None and abs(value) > bound:
        yield f"{key}: {value:g} {unit} is above {shown or f'{bound:g} {unit}'} and {guess}"


def _budgets(budgets: Budgets) -> Iterator[str]:
    for key, bound in _BUDGETS.items():
        yield from _above(f"budgets.{key}", getattr(budgets, key), bound, "s", _MILLISECONDS)


def _camera(camera: Camera) -> Iterator[str]:
    key, (low, high) = f"cameras.{camera.name}.rate_hz", _CAMERA_HZ
    cure = "give images per second"
    yield from _above(key, camera.rate_hz, high, "Hz", f"is not plausible: {cure}")
    if camera.rate_hz < low:
        yield (
            f"{key}: {camera.rate_hz:g} Hz is below {low:g} Hz and looks like the time between two"
            f" images: {cure}"
        )


def _arm(prefix: str, arm: Arm, step_s: float) -> Iterator[str]:
    for joint in arm.joints:
        yield from _joint(f"{prefix}joints.{joint.name}", joint, step_s)
    if arm.gripper:
        yield from _gripper(f"{prefix}gripper", arm.gripper)
    box, key = arm.workspace, f"{prefix}workspace"
    yield from _above(key, max(*box.lower, *box.upper, key=abs), _REACH, "m", _MILLIMETRES)
    yield from _above(f"{key}.tool_speed", box.tool_speed, _TOOL_SPEED, "m/s", _MILLIMETRES)
    if arm.command.gripper:
        key, effort = f"{prefix}command.gripper.max_effort", arm.command.gripper.max_effort
        yield from _above(key, effort, _EFFORT, "N", "is not plausible: give newtons")


def _joint(key: str, joint: Joint, step_s: float) -> Iterator[str]:
    unit, reach = joint.unit, joint.upper - joint.lower
    per_step = _STEP_FACTOR * joint.velocity * step_s
    for name, value, bound in (
        ("tracking_error", joint.tracking_error, _TRACKING_ERROR[unit]),
        ("step", joint.step, max(_STEP[unit], per_step)),
    ):
        shown = f"the joint's range of {reach:g} {unit}" if reach < bound else ""
        yield from _above(f"{key}.{name}", value, min(bound, reach), unit, _JOINT[unit], shown)
    bound = max(_ACCELERATION[unit], min(joint.velocity, _VELOCITY[unit]) / _FASTEST_S)
    yield from _above(f"{key}.acceleration", joint.acceleration, bound, f"{unit}/s^2", _JOINT[unit])


def _gripper(key: str, gripper: Gripper) -> Iterator[str]:
    unit = gripper.unit
    guess = _JOINT[unit]
    if unit == "m":
        guess = (
            "looks like millimetres, a percentage or radians: give metres, or unit: rad for a joint"
            " that turns"
        )
    for index, finger in enumerate(gripper.every_finger):
        place = f"{key}.fingers.{finger.joint}" if index else key
        for name in ("open", "closed"):
            value = getattr(finger, name)
            yield from _above(f"{place}.{name}", value, _GRIPPER_POSITION[unit], unit, guess)
    yield from _above(
        f"{key}.velocity", gripper.velocity, _GRIPPER_VELOCITY[unit], f"{unit}/s", guess
    )
    velocity = min(gripper.velocity, _GRIPPER_VELOCITY[unit])
    bound = max(_GRIPPER_ACCELERATION[unit], velocity / _FASTEST_S)
    yield from _above(f"{key}.acceleration", gripper.acceleration, bound, f"{unit}/s^2", guess)


def _collision(collision: CollisionCheck) -> Iterator[str]:
    yield from _above(
        "collision.capsule_radius", collision.capsule_radius, _RADIUS, "m", _MILLIMETRES
    )
    for box in collision.boxes:
        furthest = max(*box.lower, *box.upper, key=abs)
        yield from _above(f"collision.boxes.{box.name}", furthest, _SURROUNDINGS, "m", _MILLIMETRES)


def _simulation(simulation: Simulation) -> Iterator[str]:
    height = simulation.table_height
    yield from _above("simulation.table_height", height, _TABLE, "m", _MILLIMETRES)
    for name, mount in simulation.cameras.items():
        for key in ("position", "look_at"):
            furthest = max(getattr(mount, key), key=abs)
            yield from _above(
                f"simulation.cameras.{name}.{key}", furthest, _SURROUNDINGS, "m", _MILLIMETRES
            )
