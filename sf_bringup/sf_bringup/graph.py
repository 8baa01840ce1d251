"""Which nodes make a journey, as plain data: the launch files and their twins ``up.py`` and ``record.py`` start what stands here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml
from ament_index_python.packages import get_package_share_directory

from sf_policy_node.contract import ContractError, load_contract
from sf_policy_node.vla.remote.address import is_remote
from sf_training.recording.controls import DEFAULT_BUTTONS

SIM_ROBOT = "sim_arm"  # the robot whose arm and cameras are a node of ours
_BUTTON_KEYS = ("button", "open", "close", "toggle", "slow_button")  # of a device file
NO_POLICY = "none"

Value = bool | int | float | str


class GraphError(ValueError):
    """An argument cannot be used; the message is one sentence with the values that can."""


@dataclass(frozen=True)
class Argument:
    """One ``name:=value`` argument of a starter. ``default`` gives the type too."""

    name: str
    default: Value
    description: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class NodeSpec:
    """One node to start, as ``ros2 run package executable`` would."""

    package: str
    executable: str
    name: str
    parameters: Mapping[str, Value] = field(default_factory=dict)
    remappings: tuple[tuple[str, str], ...] = ()
    lifecycle: bool = False  # a managed node; ours configure and activate themselves (parameter autostart)


ARM_ARGUMENTS = (
    Argument("robot", SIM_ROBOT, "a robot of config/robots, or the path of a contract YAML"),
    Argument("policy", "nano", "a policy of config/policies, a checkpoint directory, openpi://HOST:8000, oft://HOST:8777, or none"),
    Argument("mapping", "", "YAML with the keys, units and gripper values of a policy server that is not ours"),
    Argument("instruction", "", "what to do from the start; empty waits for one"),
    Argument("sim", False, "simulate the robot from its contract and URDF instead of its drivers", ("true", "false")),
    Argument("seed", 0, "scene of the simulated arm"),
    Argument("record", "", "directory for episodes, begun by /recorder/start and ended by /recorder/stop; empty: no recorder"),
    Argument("join", "policy", "how chunks are joined; policy: as the checkpoint says", ("policy", "blend", "ensemble", "rtc")),
    Argument("shadow", False, "predict, but send no commands to the arm", ("true", "false")),
    Argument("real_time_factor", 1.0, "speed of the simulated arm; 0 is as fast as possible"),
)

RECORD_ARGUMENTS = (
    ARM_ARGUMENTS[0],
    Argument("task", "", "what the operator is asked to do, as long as no topic and no key says otherwise"),
    Argument("directory", "out/episodes", "where episodes are written"),
    Argument("operator", "", "who moves the arm; goes into every episode"),
    Argument("teleop", "", "a device of config/teleoperation, or the path of its YAML; empty: you start one yourself"),
    Argument("gamepad", False, "the recorder on a gamepad's buttons too; needs a publisher of sensor_msgs/Joy", ("true", "false")),
    Argument("countdown", 3.0, "seconds before an episode begins"),
    Argument("policy", NO_POLICY, "a policy to take over from (DAgger), as for arm.launch.py"),
    ARM_ARGUMENTS[3],
    Argument("seed", 0, "scene of the simulated arm"),
    Argument("real_time_factor", 1.0, "speed of the simulated arm"),
)


def arm_graph(
    robot: str = SIM_ROBOT,
    policy: str = "nano",
    mapping: str = "",
    instruction: str = "",
    sim: bool = False,
    seed: int = 0,
    record: str = "",
    join: str = "policy",
    shadow: bool = False,
    real_time_factor: float = 1.0,
) -> list[NodeSpec]:
    """Nodes of the run journey: the arm (when it is simulated), the policy, the executor and the recorder.

    Raises:
        GraphError: unknown robot or policy, a contract that does not load, or arguments that exclude each other.
    """
    contract_path = find_robot(robot)
    checkpoint = find_policy(policy)
    try:
        contract = load_contract(contract_path)
    except ContractError as error:
        raise GraphError(str(error)) from None
    simulated = sim or contract.robot == SIM_ROBOT
    if seed < 0:
        raise GraphError(f"seed: {seed} is negative; give 0 or more")
    if real_time_factor < 0:
        raise GraphError(f"real_time_factor: {real_time_factor} is negative; give 1.0 for real time or 0 for as fast as possible")
    if mapping and not is_remote(policy):
        raise GraphError(f"mapping: {mapping} is for a policy server, policy:={policy} is none; leave it out")
    if instruction and checkpoint is None:
        raise GraphError("instruction: policy:=none follows no instruction; name a policy or leave the instruction out")

    common: dict[str, Value] = {"contract": str(contract_path), "use_sim_time": simulated}
    nodes = []
    if simulated:
        arm = {"contract": str(contract_path), "seed": seed, "real_time_factor": float(real_time_factor), "depth": bool(record)}
        nodes.append(NodeSpec("sf_bringup", "sim_arm", "sim_arm", arm))
    nodes.append(NodeSpec("sf_policy_node", "chunk_executor", "chunk_executor", {**common, "shadow": shadow, "join": join}, lifecycle=True))
    if checkpoint is not None:
        policy_parameters = {**common, "checkpoint": str(checkpoint), "instruction": instruction}
        if mapping:
            policy_parameters["mapping"] = str(Path(mapping).expanduser().absolute())
        nodes.append(NodeSpec("sf_policy_node", "policy_node", "policy_node", policy_parameters, lifecycle=True))
    if record:
        episodes = {**common, "directory": str(Path(record).expanduser().absolute()), "instruction": instruction}
        nodes.append(NodeSpec("sf_training", "recorder", "recorder", episodes, lifecycle=True))
    return nodes


def record_graph(
    robot: str = SIM_ROBOT,
    task: str = "",
    directory: str = "out/episodes",
    operator: str = "",
    teleop: str = "",
    gamepad: bool = False,
    countdown: float = 3.0,
    policy: str = NO_POLICY,
    sim: bool = False,
    seed: int = 0,
    real_time_factor: float = 1.0,
) -> list[NodeSpec]:
    """Nodes of the record journey: those of the arm, with the recorder, and what moves the arm and the recorder.

    Raises:
        GraphError: as for :func:`arm_graph`; an unknown device, or a countdown that cannot be.
    """
    if not 0.0 <= countdown <= 60.0:
        raise GraphError(f"countdown: {countdown:g} is not between 0 and 60; give seconds")
    if not directory:
        raise GraphError("directory: is empty; say where episodes are to be written")
    nodes = arm_graph(robot=robot, policy=policy, sim=sim, seed=seed, record=directory, real_time_factor=real_time_factor)
    recorder = nodes.pop()
    nodes.append(replace(recorder, parameters={**recorder.parameters, "instruction": task, "operator": operator}))
    common = {key: recorder.parameters[key] for key in ("contract", "use_sim_time")}
    if teleop:
        device = {"device": str(find_device(teleop))}
        nodes.append(NodeSpec("sf_training", "teleoperation", "teleoperation", {**common, **device}, lifecycle=True))
    if gamepad:
        if teleop:
            _check_buttons(find_device(teleop))
        nodes.append(NodeSpec("sf_training", "recorder_joy", "recorder_joy", {"countdown_s": float(countdown)}))
    return nodes


def _check_buttons(device: Path) -> None:
    """One press must not close a gripper and end an episode.

    Raises:
        GraphError: device and recorder would listen to the same button.
    """
    used: dict[int, str] = {}

    def look(part: object, key: str, topic: str) -> None:
        if isinstance(part, dict):
            for name, value in part.items():
                look(value, f"{key}.{name}" if key else name, part.get("topic", topic))
        elif key.rpartition(".")[2] in _BUTTON_KEYS and isinstance(part, int) and "/" + topic.strip("/") == "/joy":
            used[part] = key

    try:
        look(yaml.safe_load(device.read_text(encoding="utf-8")), "", "")
    except (OSError, yaml.YAMLError):
        return  # the device's own node says what is wrong with it
    for press, button in DEFAULT_BUTTONS.items():
        if button in used:
            raise GraphError(
                f"gamepad: button {button} is {press} for the recorder and {used[button]} in {device.name}; take another button there, "
                f"or start recorder_joy by hand with button_{press}"
            )


def parse_arguments(words: Sequence[str], arguments: Sequence[Argument] = ARM_ARGUMENTS) -> dict[str, Value]:
    """Values for every argument from words such as ``robot:=sim_arm``.

    Raises:
        GraphError: an unknown name, or a value of another type.
    """
    known = {argument.name: argument for argument in arguments}
    values: dict[str, Value] = {argument.name: argument.default for argument in arguments}
    for word in words:
        name, assigned, text = word.partition(":=")
        if not assigned or name not in known:
            raise GraphError(f"{word!r} is not an argument; write name:=value with one of {', '.join(known)}")
        values[name] = _parse_value(known[name], text)
    return values


def find_robot(robot: str) -> Path:
    """Path of a contract from a robot's name or a path."""
    return _find(robot, "robot", _config("robots"), {path.stem: path for path in sorted(_config("robots").glob("*.yaml"))}, Path.is_file)


def find_device(device: str) -> Path:
    """Path of a teleoperation device's YAML from its name or a path."""
    folder = _config("teleoperation")
    return _find(device, "teleop", folder, {path.stem: path for path in sorted(folder.glob("*.yaml"))}, Path.is_file)


def find_policy(policy: str) -> Path | str | None:
    """Checkpoint directory from a policy's name or a path; a server's address as it is; None for ``none``."""
    if policy == NO_POLICY:
        return None
    if is_remote(policy):
        return policy
    shipped = {path.parent.name: path.parent for path in sorted(_config("policies").glob("*/config.json"))}
    path = _find(policy, "policy", _config("policies"), shipped, Path.is_dir, (NO_POLICY,))
    if not (path / "config.json").is_file():
        raise GraphError(f"policy: {path} has no config.json, so it is not a checkpoint; give a directory that `train --out` has written")
    return path


def _find(given: str, what: str, folder: Path, shipped: dict[str, Path], exists, also: tuple[str, ...] = ()) -> Path:
    if given in shipped:
        return shipped[given]
    path = Path(given).expanduser()
    if "/" in given or path.suffix in (".yaml", ".yml"):
        if exists(path):
            return path.absolute()
        raise GraphError(f"{what}: {path} does not exist; check the path")
    known = ", ".join((*shipped, *also)) or "none yet"
    raise GraphError(f"{what}: {given!r} is unknown; known are {known} (in {folder}), or give a path")


def _config(kind: str) -> Path:
    return Path(get_package_share_directory("sf_bringup")) / "config" / kind


def _parse_value(argument: Argument, text: str) -> Value:
    expected = type(argument.default)
    if argument.choices and text.lower() not in argument.choices:
        raise GraphError(f"{argument.name}: {text!r} is not one of {', '.join(argument.choices)}")
    if expected is bool:
        return text.lower() == "true"
    try:
        return expected(text.lower() if argument.choices else text)
    except ValueError:
        raise GraphError(f"{argument.name}: {text!r} is not a number like {argument.default}") from None
