"""Build a MuJoCo model of any robot from its contract and URDF: arms, cameras, table and cubes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pinocchio

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.joint_tree import JointTree
from sf_policy_node.motion.arm.link_geometry import read_shapes
from sf_training.simulation.camera_mounts import add_camera, workspace_bounds
from sf_training.simulation.grip import measure_grip
from sf_training.simulation.one_arm import in_base_frame, one_arm
from sf_training.simulation.robot_bodies import RobotBodies, tune
from sf_training.simulation.scene_parts import add_cubes, add_table, set_options
from sf_training.simulation.sim_model import Hand, SimModel, set_joints
from sf_training.simulation.start_pose import StartPoses

_TABLE_RIM = 0.15  # m of table around the workspace
_LOW = (
    0.1  # m: if the workspace begins lower above the base, the table is at the height of the base
)
_BELOW = 0.006  # m from the table to the workspace otherwise


def build_robot_model(contract: Contract, folders: Sequence[Path] = ()) -> SimModel:
    """Return a simulation of the arms of a contract in its base frame.

    Links are drawn and collide as their collision shapes: primitives, convex hulls of meshes, or
    capsules if the URDF has none. Gravity of the arms is compensated. Only hands (everything that
    the last joint of an arm moves) have contacts with table and cubes.

    Args:
        folders: searched for meshes; see :func:`read_shapes`.

    Raises:
        ContractError: URDF and contract do not match.
    """
    import mujoco

    contract = in_base_frame(contract)
    robot = pinocchio.buildModelFromXML(contract.urdf_xml)
    tree = JointTree(robot, contract.urdf_xml, contract.command_joints)
    shapes = read_shapes(
        robot,
        contract.urdf_xml,
        next(iter(contract.arms.values())).tool_frame,
        [*folders, *contract.mesh_folders],
        contract.collision.capsule_radius,
    )
    spec = mujoco.MjSpec()
    spec.modelname, spec.compiler.degree = contract.robot, False
    set_options(
        spec,
        max(camera.width for camera in contract.cameras),
        max(camera.height for camera in contract.cameras),
    )
    table = table_height(contract)
    lower, upper = workspace_bounds(contract)
    centre, half = 0.5 * (lower + upper)[:2], 0.5 * (upper - lower)[:2] + _TABLE_RIM
    add_table(spec, tuple(centre), tuple(half), table)
    bodies = RobotBodies(spec, contract, robot, tree)
    bodies.add(shapes)
    for name, arm in contract.arms.items():
        body, placement = bodies.body(arm.tool_frame)
        body.add_site(
            name=f"tool/{name}",
            pos=placement.translation,
            quat=pinocchio.Quaternion(placement.rotation).coeffs()[[3, 0, 1, 2]],
            size=[0.004] * 3,
            rgba=[0, 0, 0, 0],
        )
    scene_camera = None
    for index, camera in enumerate(contract.cameras):
        fixed = add_camera(spec, bodies, contract, camera, first=index == 0, table=table)
        scene_camera = scene_camera or (camera.name if fixed else None)
    add_cubes(spec)
    servos = bodies.add_servos()
    model = spec.compile()

    starts = {name: StartPoses(one_arm(contract, name), table) for name in contract.arms}
    data, home = mujoco.MjData(model), np.concatenate([each.home for each in starts.values()])
    set_joints(model, data, servos, home)
    servos = tune(model, data, servos)
    away = np.array([centre[0] - half[0] + 0.05, centre[1] + half[1] - 0.05, table + 0.02])
    hands = []
    for name, start in starts.items():
        hand, fingers = (
            [model.geom(geom).id for geom in names[name]]
            for names in (bodies.hand_geoms, bodies.finger_geoms)
        )
        grip = measure_grip(model, data, servos, home, contract, name, hand, fingers)
        hands.append(
            Hand(
                arm=name,
                site=f"tool/{name}",
                fingers=frozenset(hand),
                approach=start.approach,
                home=start.home,
                cube_area=start.cube_area(),
                grip=grip,
            )
        )

    def draw(random: np.random.Generator) -> np.ndarray:
        return np.concatenate([each.draw(random) for each in starts.values()])

    return SimModel(
        model=model,
        servos=servos,
        commanded=tuple(bodies.joint_names[name] for name in contract.command_joints),
        hands=tuple(hands),
        jittered_camera=scene_camera,
        table=table,
        pedestal_height=min(each.pedestal_height() for each in starts.values()),
        away=away,
        start=draw,
    )


def table_height(contract: Contract) -> float:
    """Return the height of the table in the base frame [m].

    It is ``simulation.table_height`` if given. Otherwise the arm stands on the table, unless its
    workspace begins below or well above the base.
    """
    if contract.simulation.table_height is not None:
        return contract.simulation.table_height
    lowest = float(workspace_bounds(contract)[0][2])
    return 0.0 if 0.0 <= lowest <= _LOW else lowest - _BELOW
