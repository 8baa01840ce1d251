"""Compute which nodes of a journey start, and with which parameters, for the launch files, ``up``
and ``record``.

``ros2 run sf_bringup graph arm robot:=...`` prints the result as JSON. Launch files read that
output because the Python of ``ros2`` need not have the packages that validate a contract.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ament_index_python.packages import (
    PackageNotFoundError,
    get_package_prefix,
    get_package_share_directory,
)

from sf_bringup import journeys
from sf_bringup.arguments import (
    NO_POLICY,
    SIM_ROBOT,
    GraphError,
    Value,
    parse_arguments,
    resolve_namespace,
)
from sf_bringup.button_conflicts import check_buttons
from sf_bringup.journeys import CHECKS_SECOND_START, JOURNEYS, Executable, remap_global_topics
from sf_bringup.rviz_config import write_rviz_config
from sf_bringup.second_start import refuse_second_start
from sf_bringup.simulated_contract import for_simulation, is_simulated
from sf_policy_node.contract import Contract, ContractError, load_contract
from sf_policy_node.vla.remote.address import is_remote


@dataclass(frozen=True)
class NodeSpec:
    """Describe one node to start, as ``ros2 run package executable`` would."""

    package: str
    executable: str
    name: str
    parameters: Mapping[str, Value] = field(default_factory=dict)
    remappings: tuple[tuple[str, str], ...] = ()
    lifecycle: bool = False  # managed; ours activate themselves (parameter autostart)
    essential: bool = True  # when it ends, the others are stopped
    finishes: bool = False  # moves the arm before it ends, and needs the other nodes for that
    namespace: str = ""  # empty: the root namespace
    ros_arguments: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()  # of the program itself

    @property
    def full_name(self) -> str:
        """Return the name with its namespace."""
        namespace = self.namespace.strip("/")
        return f"/{namespace}/{self.name}" if namespace else f"/{self.name}"


def make_spec(node: Executable, parameters: Mapping[str, Value]) -> NodeSpec:
    """Return the node of a journey with its parameters."""
    return NodeSpec(
        node.package,
        node.executable,
        node.name,
        parameters,
        lifecycle=node.lifecycle,
        essential=node.essential,
    )


@dataclass(frozen=True)
class _Robot:
    """Hold the contract of a robot and whether it is simulated."""

    contract_path: Path
    contract: Contract
    is_simulated: bool
    use_sim_time: bool

    @property
    def common(self) -> dict[str, Value]:
        """Return the parameters of all nodes of this workspace except the simulated arm, which
        publishes the time.
        """
        return {"contract": str(self.contract_path), "use_sim_time": self.use_sim_time}


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
    device: str = "auto",
    replan_steps: int = 0,
    **common: Any,
) -> list[NodeSpec]:
    """Return the wanted nodes of the run journey: executor, policy, recorder, simulated arm.

    Args:
        common: arguments that every journey has; see :func:`_finish`.

    Raises:
        GraphError: unknown robot or policy, a contract that does not load, or arguments that
            exclude each other.
    """
    the_robot = _load_robot(robot, sim, common)
    nodes = _moving_nodes(
        the_robot,
        seed,
        real_time_factor,
        depth=bool(record),
        executor={"shadow": shadow, "join": join},
    )
    nodes += _policy_nodes(the_robot, policy, instruction, device, replan_steps, mapping)
    if record:
        nodes.append(_recorder(the_robot, record, instruction))
    return _finish(nodes, the_robot, **common)


def record_graph(
    robot: str = SIM_ROBOT,
    task: str = "",
    directory: str = "out/episodes",
    operator: str = "",
    image_codec: str = "raw",
    teleop: str = "",
    gamepad: bool = False,
    countdown: float = 3.0,
    policy: str = NO_POLICY,
    sim: bool = False,
    seed: int = 0,
    real_time_factor: float = 1.0,
    device: str = "auto",
    replan_steps: int = 0,
    **common: Any,
) -> list[NodeSpec]:
    """Return the nodes of the record journey: those of the arm, the recorder and their controls.

    Raises:
        GraphError: as for :func:`arm_graph`; an unknown device, a countdown out of range, or no
            directory.
    """
    if not 0.0 <= countdown <= 60.0:
        raise GraphError(f"countdown: {countdown:g} is not between 0 and 60; give seconds")
    if not directory:
        raise GraphError("directory: is empty; give the folder to write episodes to")
    the_robot = _load_robot(robot, sim, common)
    nodes = _moving_nodes(the_robot, seed, real_time_factor, depth=True)
    nodes += _policy_nodes(the_robot, policy, "", device, replan_steps)
    recorder = {"operator": operator, "image_codec": image_codec}
    nodes.append(_recorder(the_robot, directory, task, **recorder))
    if teleop:
        nodes.append(_teleoperation(the_robot, teleop))
    if gamepad:
        if teleop:
            check_buttons(find_device(teleop))
        nodes.append(make_spec(journeys.RECORDER_JOY, {"countdown_s": float(countdown)}))
    return _finish(nodes, the_robot, **common)


def teleop_graph(
    robot: str = SIM_ROBOT,
    teleop: str = "keyboard",
    sim: bool = False,
    seed: int = 0,
    real_time_factor: float = 1.0,
    **common: Any,
) -> list[NodeSpec]:
    """Return the nodes of the teleoperation journey: arm, executor and device.

    Raises:
        GraphError: unknown robot or device.
    """
    the_robot = _load_robot(robot, sim, common)
    nodes = _moving_nodes(the_robot, seed, real_time_factor, depth=False)
    return _finish([*nodes, _teleoperation(the_robot, teleop)], the_robot, **common)


GRAPHS: dict[str, Callable[..., list[NodeSpec]]] = {
    "arm": arm_graph,
    "record": record_graph,
    "teleop": teleop_graph,
}


def _load_robot(robot: str, sim: bool, common: Mapping[str, Any]) -> _Robot:
    path = find_robot(robot)
    use_sim_time = str(common.get("use_sim_time", "auto"))
    namespace = resolve_namespace(str(common.get("namespace", "")))
    try:
        contract = load_contract(path, namespace=namespace)
    except ContractError as error:
        raise GraphError(str(error)) from None
    simulated = is_simulated(contract, sim)
    if simulated and not sim and path != find_robot(SIM_ROBOT):
        print(
            f"robot: {path} has the name {SIM_ROBOT}, so the simulated arm is started on its"
            " topics; for a real arm give it another name (key robot)",
            file=sys.stderr,
        )
    path = for_simulation(path, contract) if sim else path
    return _Robot(
        path,
        contract,
        simulated,
        simulated if use_sim_time == "auto" else use_sim_time == "true",
    )


def _moving_nodes(
    robot: _Robot,
    seed: int,
    real_time_factor: float,
    *,
    depth: bool,
    executor: Mapping[str, Value] | None = None,
) -> list[NodeSpec]:
    if seed < 0:
        raise GraphError(f"seed: {seed} is negative; give 0 or more")
    if real_time_factor < 0:
        raise GraphError(
            f"real_time_factor: {real_time_factor} is negative; give 1.0 for real time or 0 for as"
            " fast as possible"
        )
    executor = {"shadow": False, "join": "policy"} if executor is None else executor
    spec = make_spec(journeys.CHUNK_EXECUTOR, {**robot.common, **executor})
    nodes = [replace(spec, finishes=any(arm.rest for arm in robot.contract.arms.values()))]
    if robot.is_simulated:
        arm: dict[str, Value] = {
            "contract": str(robot.contract_path),
            "seed": seed,
            "real_time_factor": float(real_time_factor),
            "depth": depth,
        }
        nodes.insert(0, make_spec(journeys.SIM_ARM, arm))
    return nodes


def _policy_nodes(
    robot: _Robot, policy: str, instruction: str, device: str, replan_steps: int, mapping: str = ""
) -> list[NodeSpec]:
    checkpoint = find_policy(policy)
    if mapping and not is_remote(policy):
        raise GraphError(
            f"mapping: {mapping} is for a policy server, and policy:={policy} is not one; leave it"
            " out"
        )
    if checkpoint is None:
        if instruction:
            raise GraphError(
                "instruction: policy:=none follows no instruction; name a policy or leave the"
                " instruction out"
            )
        return []
    if replan_steps < 0:
        raise GraphError(
            f"replan_steps: {replan_steps} is negative; give 1 or more, or 0 for the default of"
            " policy_node"
        )
    parameters: dict[str, Value] = {
        **robot.common,
        "checkpoint": str(checkpoint),
        "instruction": instruction,
        "device": device,
    }
    if mapping:
        parameters["mapping"] = str(Path(mapping).expanduser().absolute())
    if replan_steps:
        parameters["replan_steps"] = replan_steps
    return [make_spec(journeys.POLICY_NODE, parameters)]


def _recorder(robot: _Robot, directory: str, instruction: str, **more: str) -> NodeSpec:
    parameters = {
        **robot.common,
        "directory": str(Path(directory).expanduser().absolute()),
        "instruction": instruction,
        **more,
    }
    return make_spec(journeys.RECORDER, parameters)


def _teleoperation(robot: _Robot, device: str) -> NodeSpec:
    return make_spec(journeys.TELEOPERATION, {**robot.common, "device": str(find_device(device))})


def _finish(
    nodes: list[NodeSpec],
    robot: _Robot,
    namespace: str = "",
    params_file: str = "",
    log_level: str = "info",
    use_sim_time: str = "auto",
    autostart: bool = True,
    robot_state: str = "auto",
    markers: str = "auto",
    rviz: bool = False,
    doctor: bool = False,
    foxglove: bool = False,
) -> list[NodeSpec]:
    if params_file:
        path = Path(params_file).expanduser()
        if not path.is_file():
            raise GraphError(f"params_file: {path} does not exist; check the path")
        params_file = str(path.absolute())
    is_watched = rviz or foxglove or any(node.name == journeys.RECORDER.name for node in nodes)
    if robot_state == "true" or (robot_state == "auto" and robot.is_simulated and is_watched):
        nodes.append(_robot_state(robot))
    if markers == "true" or (markers == "auto" and is_watched):
        nodes.append(make_spec(journeys.MARKERS, robot.common))
    if doctor:
        nodes.append(make_spec(journeys.DOCTOR, {**robot.common, "patience_s": 30.0}))
    for is_wanted, tool in ((rviz, journeys.RVIZ), (foxglove, journeys.FOXGLOVE_BRIDGE)):
        if is_wanted:
            _check_installed(tool)
            nodes.append(make_spec(tool, {"use_sim_time": robot.use_sim_time}))
    nodes = [_with_rviz_config(node, robot.contract) for node in nodes]
    # Only values that differ from the defaults of ROS, so that command lines stay short.
    ros_arguments = (
        *(("--params-file", params_file) if params_file else ()),
        *(("--log-level", log_level) if log_level != "info" else ()),
    )
    namespace = resolve_namespace(namespace)
    remappings = tuple(remap_global_topics(namespace).items())
    manual: dict[str, Value] = {} if autostart else {"autostart": False}
    return [
        replace(
            node,
            parameters={**node.parameters, **(manual if node.lifecycle else {})},
            namespace=namespace,
            remappings=remappings,
            ros_arguments=ros_arguments,
        )
        for node in nodes
    ]


def _robot_state(robot: _Robot) -> NodeSpec:
    try:
        get_package_prefix(journeys.ROBOT_STATE_PUBLISHER.package)
    except PackageNotFoundError:
        return make_spec(journeys.ROBOT_STATE, robot.common)
    clock: dict[str, Value] = {"use_sim_time": robot.use_sim_time}
    urdf = {"robot_description": robot.contract.urdf_xml, **clock}
    return make_spec(journeys.ROBOT_STATE_PUBLISHER, urdf)


def _with_rviz_config(node: NodeSpec, contract: Contract) -> NodeSpec:
    if node.name != journeys.RVIZ.name:
        return node
    return replace(node, arguments=("-d", str(write_rviz_config(contract))))


def _check_installed(tool: Executable) -> None:
    try:
        get_package_prefix(tool.package)
    except PackageNotFoundError:
        package = (
            f"ros-{os.environ.get('ROS_DISTRO', '<distribution>')}-{tool.package.replace('_', '-')}"
        )
        raise GraphError(
            f"package {tool.package} is not installed; install {package}, or leave the argument out"
        ) from None


def find_robot(robot: str) -> Path:
    """Return the path of a contract from a robot's name or a path."""
    return _find(
        robot,
        "robot",
        _config("robots"),
        {path.stem: path for path in sorted(_config("robots").glob("*.yaml"))},
        Path.is_file,
    )


def find_device(device: str) -> Path:
    """Return the path of a teleoperation device's YAML from its name or a path."""
    folder = _config("teleoperation")
    return _find(
        device,
        "teleop",
        folder,
        {path.stem: path for path in sorted(folder.glob("*.yaml"))},
        Path.is_file,
    )


def find_policy(policy: str) -> Path | str | None:
    """Return the directory of a checkpoint from a policy's name or a path; a server's address
    unchanged; None for ``none``.

    Raises:
        GraphError: the name is unknown, or the path is not a checkpoint.
    """
    if policy == NO_POLICY:
        return None
    if is_remote(policy):
        return policy
    shipped = {
        path.parent.name: path.parent for path in sorted(_config("policies").glob("*/config.json"))
    }
    path = _find(policy, "policy", _config("policies"), shipped, Path.is_dir, (NO_POLICY,))
    if not (path / "config.json").is_file():
        raise GraphError(
            f"policy: {path} has no config.json, so it is not a checkpoint; give a directory that"
            " `train --out` has written"
        )
    return path


def _find(
    given: str,
    what: str,
    folder: Path,
    shipped: dict[str, Path],
    exists: Callable[[Path], bool],
    also: tuple[str, ...] = (),
) -> Path:
    if given in shipped:
        return shipped[given]
    path = Path(given).expanduser()
    if "/" in given or path.suffix in (".yaml", ".yml"):
        if exists(path):
            return path.absolute()
        raise GraphError(f"{what}: {path} does not exist; check the path")
    known = ", ".join((*shipped, *also)) or "none yet"
    raise GraphError(
        f"{what}: {given!r} is unknown; known are {known} (in {folder}), or give a path"
    )


def _config(kind: str) -> Path:
    return Path(get_package_share_directory("sf_bringup")) / "config" / kind


def main(words: Sequence[str] | None = None) -> int:
    """Print the graph of a journey as JSON; returns the exit code."""
    words = sys.argv[1:] if words is None else list(words)
    if not words or words[0] not in GRAPHS:
        print(
            f"graph: name a journey first: {', '.join(GRAPHS)}; then its arguments, as for its"
            " launch file",
            file=sys.stderr,
        )
        return 2
    try:
        values = parse_arguments(words[1:], JOURNEYS[words[0]].arguments)
        nodes = GRAPHS[words[0]](**values)
        if CHECKS_SECOND_START in os.environ:
            refuse_second_start([node.full_name for node in nodes if node.essential])
    except GraphError as error:
        print(f"graph: {error}", file=sys.stderr)
        return 2
    params_file = (
        str(Path(str(values["params_file"])).expanduser().absolute())
        if values["params_file"]
        else ""
    )
    content = {
        "nodes": {node.name: dict(node.parameters) for node in nodes},
        "params_file": params_file,
        "rviz_config": next((node.arguments[1] for node in nodes if node.arguments), ""),
    }
    print(json.dumps(content))
    return 0


if __name__ == "__main__":
    sys.exit(main())
