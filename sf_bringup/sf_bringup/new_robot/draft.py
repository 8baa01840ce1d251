"""Write the text of a drafted contract: known values, and a list of what the user must decide."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pinocchio

from sf_bringup.new_robot.arm import ArmGuess, reach_box
from sf_bringup.new_robot.survey import CameraSeen, Survey
from sf_policy_node.urdf import UrdfJoint

_SHARE = 0.5  # of the URDF's velocity, to begin with
_NO_VELOCITY = 0.5  # rad/s or m/s where the URDF gives none
_MOST = {"rad": 10.0, "m": 2.0}  # rad/s, m/s: a faster arm joint is a placeholder in the URDF
_RAMP_S = 0.5  # from rest to that velocity
_CLOSING_S = 0.1  # shortest time from open to closed; URDFs of grippers have speeds of any size
_STEP_S, _HORIZON = 1.0 / 30.0, 50
_SAMPLES = 2000
_BUDGETS = (
    "budgets: {observation_age_s: 0.25, camera_skew_s: 0.05, joint_state_age_s: 0.1, "
    "chunk_age_s: 0.5, hold_s: 2.5, teleop_age_s: 0.2}"
)


def draft_contract(
    robot: str, urdf_file: str, urdf_xml: str, arms: Mapping[str, ArmGuess], seen: Survey
) -> str:
    """Return the contract as YAML text; its key ``undecided`` keeps it from being used.

    Args:
        arms: by name; see :func:`guess_arms`.
        seen: what the live graph has; an empty one without a graph.
    """
    decide: list[str] = []
    several = len(arms) > 1
    lines = [
        (
            f"# Drafted by new_robot from {urdf_file}. Every key is explained in"
            " sf_policy_node/doc/contract.md."
        ),
        (
            "# Check each key under `undecided`, set it, and remove it from the list: the contract"
            " is refused until then."
        ),
        f"schema_version: {2 if several else 1}",
        f"robot: {robot}",
        f"urdf: {urdf_file}",
        f"base_frame: {_quoted(next(iter(arms.values())).base)}",
    ]
    names: list[str] = []
    if several:
        lines += ["", "arms:"]
    for name, arm in arms.items():
        section = _arm(arm, urdf_xml, _own_topics(seen, name, several), decide, name, several)
        if several:
            section = [f"  {name}:", *(f"    {line}" if line else "" for line in section)]
        lines += section
        gripper = [f"{name}/gripper" if several else "gripper"] if arm.gripper else []
        names += [*(joint.name for joint in arm.joints), *gripper]
    if others := sorted(set.intersection(*(set(arm.others) for arm in arms.values()))):
        lines.append(f"# moving joints of the URDF that are not commanded: {', '.join(others)}")
    lines += [
        "",
        "cameras:",
        *_cameras(seen.cameras, decide),
        "",
        "action:  # of your policy",
        "  space: joint_position",
        f"  names: [{', '.join(map(_quoted, names))}]",
        f"  step_s: {_STEP_S:.6g}",
        f"  horizon: {_HORIZON}",
        "",
        _BUDGETS,
        "collision:",
        (
            "  boxes: []  # table, walls, posts: {name: table, lower: [x, y, z], upper: [x, y, z]},"
            " in base_frame [m]"
        ),
        *_topics(seen, [joint.name for arm in arms.values() for joint in arm.joints], decide),
    ]
    decide += ["action", "collision.boxes"]
    return "\n".join([*lines, "undecided:", *(f"  - {key}" for key in decide)]) + "\n"


def _arm(
    arm: ArmGuess, urdf_xml: str, topics: Sequence[str], decide: list[str], name: str, several: bool
) -> list[str]:
    """Return the lines of one arm, and add what the user must decide to ``decide``.

    Args:
        topics: of trajectories that the arm's controller may subscribe to.
    """
    own: list[str] = []
    lines = [f"base_frame: {_quoted(arm.mount)}"] if several else []
    lines += [
        f"tool_frame: {_quoted(arm.tool)}" + _others("also possible", arm.tools[1:6]),
        (
            "# position limits: of the URDF; velocity: half of the URDF's; acceleration: from rest"
            " in half a second"
        ),
        "joints:",
    ]
    if len(arm.tools) > 1:
        own.append("tool_frame")
    lines += [_joint(joint, own) for joint in arm.joints]
    lines += _gripper(arm.gripper, own)
    lower, upper = reach_box(_reached(urdf_xml, arm))
    lines += [
        "# the tool may not leave this box, in base_frame [m]; the arm reaches about that far",
        f"workspace: {{lower: {lower}, upper: {upper}, tool_speed: 0.25}}",
        *_command(topics, f"{name}_arm_controller" if several else "", own),
    ]
    own.append("workspace")
    decide += [f"arms.{name}.{key}" for key in own] if several else own
    return lines


def _own_topics(seen: Survey, name: str, several: bool) -> list[str]:
    """Return the topics of trajectories that have the arm's name in them; all for one arm."""
    if not several:
        return seen.command_topics
    return [topic for topic in seen.command_topics if name in re.split(r"[^A-Za-z0-9]+", topic)]


def _joint(joint: UrdfJoint, decide: list[str]) -> str:
    key = f"joints.{joint.name}"
    lower, upper = joint.lower, joint.upper
    if joint.kind == "continuous" or lower is None or upper is None or lower >= upper:
        lower, upper = -math.pi, math.pi
        decide.append(f"{key}.lower, upper")
    velocity, most = _SHARE * (joint.velocity or 0.0), _MOST["m" if joint.unit == "m" else "rad"]
    if not 0.0 < velocity <= most:
        velocity = min(velocity, most) or _NO_VELOCITY
        decide.append(f"{key}.velocity")
    decide.append(f"{key}.acceleration, tracking_error")
    unit = ", unit: m" if joint.unit == "m" else ""
    error = min(0.02 if joint.unit == "m" else 0.15, upper - lower)
    step = min(max(velocity * _STEP_S * 2.0, 0.02), upper - lower)
    return (
        f"  - {{name: {_quoted(joint.name)}, lower: {lower:.6g}, upper: {upper:.6g}, velocity:"
        f" {velocity:.4g}, acceleration: {velocity / _RAMP_S:.4g}, tracking_error: {error:g}, step:"
        f" {step:.3g}{unit}}}"
    )


def _gripper(joint: UrdfJoint | None, decide: list[str]) -> list[str]:
    if joint is None:
        return ["# no gripper was found; add a section `gripper` if there is one"]
    low, high = joint.lower or 0.0, joint.upper or 0.0
    low, high = (low, high) if low < high else (0.0, 1.0)
    decide.append("gripper.open, closed")
    velocity = min(_SHARE * (joint.velocity or 2.0 * (high - low)), (high - low) / _CLOSING_S)
    ends = f"open: {high:.6g}, closed: {low:.6g}"
    speeds = f"velocity: {velocity:.4g}, acceleration: {velocity / 0.1:.4g}"
    rest = f"unit: {joint.unit}, binary: false"
    return [f"gripper: {{joint: {_quoted(joint.name)}, {ends}, {speeds}, {rest}}}"]


def _cameras(cameras: Sequence[CameraSeen], decide: list[str]) -> list[str]:
    if not cameras:
        decide.append("cameras")
        cameras = [
            CameraSeen(
                "scene_camera/image_raw", "raw", 320, 240, "scene_camera_optical_frame", 30.0
            )
        ]
    else:
        decide.append("cameras: order and names")
    lines: list[str] = []
    used: set[str] = set()
    for camera in cameras:
        name = _camera_name(camera.topic, used)
        lines += [
            f"  - name: {name}",
            f"    topic: {camera.topic}",
            f"    transport: {camera.transport}",
            f"    width: {camera.width}",
            f"    height: {camera.height}",
            f"    frame: {_quoted(camera.frame or name + '_optical_frame')}",
            f"    rate_hz: {max(1, round(camera.rate_hz))}",
        ]
    return lines


def _camera_name(topic: str, used: set[str]) -> str:
    """Return ``wrist`` for /wrist_camera/color/image_raw; with a number if that is used."""
    first = next((part for part in topic.split("/") if part), "camera")
    name = (
        re.sub(r"[^A-Za-z0-9_]", "_", first.removesuffix("_camera").removesuffix("_cam"))
        or "camera"
    )
    name = name if name[0].isalpha() else f"camera_{name}"
    number, taken = 2, name
    while taken in used:
        taken, number = f"{name}{number}", number + 1
    used.add(taken)
    return taken


def _command(topics: Sequence[str], controller: str, decide: list[str]) -> list[str]:
    controller = controller or "joint_trajectory_controller"
    topic = topics[0] if topics else f"{controller}/joint_trajectory"
    if len(topics) != 1:
        decide.append("command.topic")
    decide.append("command.gripper, for a gripper with a controller of its own")
    return [
        f"command: {{output: joint_trajectory, topic: {topic}, rate_hz: 50}}"
        + _others("also", topics[1:])
    ]


def _topics(seen: Survey, joints: list[str], decide: list[str]) -> list[str]:
    fitting = [topic for topic, names in seen.joint_topics.items() if set(joints) <= names]
    if fitting:
        return [f"topics: {{joint_states: {fitting[0]}}}" + _others("also", fitting[1:])]
    decide.append("topics.joint_states")
    seen_names = [
        f"{topic} has {', '.join(sorted(names))}" for topic, names in seen.joint_topics.items()
    ]
    return [f"# no topic has all joints: {each}" for each in seen_names] + [
        "topics: {joint_states: joint_states}"
    ]


def _reached(urdf_xml: str, arm: ArmGuess) -> np.ndarray:
    """Return tool positions (N, 3) [m] in the arm's mount at random joints inside the limits."""
    model = pinocchio.buildModelFromXML(urdf_xml)
    data, random = model.createData(), np.random.default_rng(0)
    tool, base = (
        model.getFrameId(link, pinocchio.FrameType.BODY) for link in (arm.tool, arm.mount)
    )
    columns = [(model.joints[model.getJointId(joint.name)], joint) for joint in arm.joints]
    positions = np.empty((_SAMPLES, 3))
    for n in range(_SAMPLES):
        q = pinocchio.neutral(model)
        for moving, joint in columns:
            if moving.nq == 1:
                low, high = joint.lower, joint.upper
                low, high = (
                    (-np.pi, np.pi) if low is None or high is None or low >= high else (low, high)
                )
                q[moving.idx_q] = random.uniform(low, high)
            else:
                turn = random.uniform(-np.pi, np.pi)
                q[moving.idx_q : moving.idx_q + 2] = np.cos(turn), np.sin(turn)
        pinocchio.framesForwardKinematics(model, data, q)
        positions[n] = data.oMf[base].actInv(data.oMf[tool]).translation
    return positions


def _others(what: str, names: Sequence[str]) -> str:
    return f"  # {what}: {', '.join(names)}" if names else ""


def _quoted(name: str) -> str:
    """Return a name as YAML text: in quotes where YAML would read something else."""
    return (
        name if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) and name not in _WORDS else f'"{name}"'
    )


_WORDS = {"yes", "no", "on", "off", "true", "false", "null", "y", "n"}
