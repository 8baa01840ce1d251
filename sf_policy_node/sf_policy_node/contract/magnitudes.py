"""Find numbers of a contract that are in a wrong unit, such as milliseconds instead of seconds.

The bounds are far above what any robot needs. Contracts in bags and checkpoints are read without
them: a recording stays usable, because no robot moves with its limits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from sf_policy_node.contract.checks import arm_key
from sf_policy_node.contract.sections import Action, Arm, Budgets, Camera, Gripper, Joint
from sf_policy_node.contract.surroundings import CollisionCheck, Simulation

# Largest value of each key [s]. A value in milliseconds is above it.
_BUDGETS = {
    "observation_age_s": 5.0,
    "camera_skew_s": 2.0,
    "joint_state_age_s": 5.0,
    "gripper_age_s": 5.0,
    "chunk_age_s": 30.0,  # a large model on a CPU needs many seconds for a chunk
    "emergency_stop_age_s": 10.0,
    "hold_s": 60.0,  # more where a chunk lasts longer: hold_s must outlast it
    "teleop_age_s": 5.0,
}
_HOLD_MARGIN_S = 10.0
_STEP_S = 5.0
_CAMERA_HZ = (0.05, 1000.0)
# Bounds of joints by unit. Degrees are 57 times, millimetres 1000 times as many.
_TRACKING_ERROR, _LAG_S = {"rad": 0.5, "m": 0.4}, 0.2  # of a servo that follows at full speed
_STEP, _STEP_FACTOR = {"rad": 1.0, "m": 0.5}, 6.0  # of the distance at full speed
_VELOCITY = {"rad": 30.0, "m": 20.0}
# From rest to full speed. Small joints reach 100 rad/s^2 by their datasheets; 2 rad/s^2 in degrees
# is 115, which a joint of up to 3 rad/s may not have.
_ACCELERATION, _FASTEST_S = {"rad": 100.0, "m": 50.0}, 0.027
_GRIPPER_POSITION = {"rad": 4.0 * math.pi, "m": 0.5}
_GRIPPER_VELOCITY = {"rad": 30.0, "m": 2.0}
# Of a gripper that the URDF lacks: drivers also give its opening as a number from 0 to 1.
_NORMALISED = {"position": 1.0, "velocity": 10.0}
_GRIPPER_ACCELERATION = {"rad": 100.0, "m": 50.0}
_EFFORT = 2000.0  # N
_TOOL_SPEED = 15.0  # m/s; delta robots reach 10
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
    action: Action,
    budgets: Budgets,
    collision: CollisionCheck,
    simulation: Simulation,
) -> None:
    """Refuse sections of a contract with numbers that no robot has in the contract's units.

    Raises:
        ValueError: with key, value, bound and the unit that was probably meant, for each of them.
    """
    step_s = action.step_s
    problems = list(_budgets(budgets, step_s * action.horizon))
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


def _budgets(budgets: Budgets, chunk_s: float) -> Iterator[str]:
    """Yield a sentence for each budget above its bound; ``chunk_s``: how long a chunk lasts."""
    for key, bound in _BUDGETS.items():
        if key == "hold_s":
            bound = max(bound, chunk_s + _HOLD_MARGIN_S)
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
    velocity = min(joint.velocity, _VELOCITY[unit])
    lag = _LAG_S * velocity
    for name, value, bound in (
        ("tracking_error", joint.tracking_error, max(_TRACKING_ERROR[unit], lag)),
        ("step", joint.step, max(_STEP[unit], per_step)),
    ):
        shown = f"the joint's range of {reach:g} {unit}" if reach < bound else ""
        yield from _above(f"{key}.{name}", value, min(bound, reach), unit, _JOINT[unit], shown)
    bound = max(_ACCELERATION[unit], velocity / _FASTEST_S)
    yield from _above(f"{key}.acceleration", joint.acceleration, bound, f"{unit}/s^2", _JOINT[unit])


def _gripper(key: str, gripper: Gripper) -> Iterator[str]:
    unit = gripper.unit
    guess = _JOINT[unit]
    if unit == "m":
        guess = (
            "looks like millimetres, a percentage or radians: give metres, or unit: rad for a joint"
            " that turns"
        )
    furthest, fastest = _GRIPPER_POSITION[unit], _GRIPPER_VELOCITY[unit]
    if not gripper.in_urdf:
        furthest = max(furthest, _NORMALISED["position"])
        fastest = max(fastest, _NORMALISED["velocity"])
    for index, finger in enumerate(gripper.every_finger):
        place = f"{key}.fingers.{finger.joint}" if index else key
        for name in ("open", "closed"):
            value = getattr(finger, name)
            yield from _above(f"{place}.{name}", value, furthest, unit, guess)
    yield from _above(f"{key}.velocity", gripper.velocity, fastest, f"{unit}/s", guess)
    bound = max(_GRIPPER_ACCELERATION[unit], min(gripper.velocity, fastest) / _FASTEST_S)
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
