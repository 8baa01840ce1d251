"""Simulate the arms of a contract with MuJoCo: physics, controller, cameras, task state. No ROS.

Training, evaluation and the ROS node ``sf_bringup/sim_arm.py`` use :class:`ArmSim`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.limits import JointLimits
from sf_training.simulation.controller_base import Controller
from sf_training.simulation.controllers import ControllerGroup
from sf_training.simulation.instructions import canonical
from sf_training.simulation.motion_trace import MotionTrace
from sf_training.simulation.rendering import RenderingError, choose_gl, no_library
from sf_training.simulation.robot_model import build_robot_model
from sf_training.simulation.scene import (
    CUBE_COLOURS,
    CUBE_HALF,
    MAX_CUBES,
    PEDESTAL_DEPTH,
    TIMESTEP,
    build_sim_arm,
)
from sf_training.simulation.sim_model import TOOL_DOWN as TOOL_DOWN
from sf_training.simulation.sim_model import set_joints
from sf_training.simulation.trajectory_controller import JointTrajectoryController

SIM_ARM = "sim_arm"  # the robot with a hand-written MuJoCo model
LIFT_HEIGHT = 0.05  # m above its support at which a cube counts as lifted
HELD_DISTANCE = 0.035  # m between tool and cube centre below which the cube counts as held
TWO_TARGETS_SHARE = 0.5  # share of the two-arm scenes with one target for each of two arms
_CUBE_SPACING = 0.105  # m between cube centres, or _SPACING_SHARE of the longer side of the area
_SPACING_SHARE = 0.42


@dataclass(frozen=True)
class Scene:
    """A scene with its instruction, as made by :meth:`ArmSim.reset`.

    Attributes:
        instruction: names one cube, or with several arms one for each of two arms.
        targets, target: colours of the named cubes, and the first of them.
        colours: of all cubes.
        arms: name of the arm that reaches each cube and picks it.
    """

    seed: int
    instruction: str
    target: str
    colours: tuple[str, ...]
    targets: tuple[str, ...]
    arms: tuple[str, ...]

    def arm_of(self, colour: str) -> str:
        """Return the name of the arm that reaches a cube."""
        return self.arms[self.colours.index(colour)]


@dataclass(frozen=True)
class ObjectState:
    """State of one cube.

    Attributes:
        position: centre (3,) in the base frame [m].
        touched: a finger touched it since the reset.
        held_by: arm whose tool is at the lifted cube; empty if none.
    """

    colour: str
    position: np.ndarray
    lifted: bool
    touched: bool
    held_by: str = ""


@dataclass(frozen=True)
class TaskState:
    """Ground truth of the task, as ``sf_msgs/TaskState``.

    Attributes:
        tool: position (3,) [m] of the tool of the target's arm.
    """

    seed: int
    episode: int
    instruction: str
    target: str
    objects: tuple[ObjectState, ...]
    tool: np.ndarray
    targets: tuple[str, ...] = ()

    def picked(self, targets: Sequence[str] = ()) -> bool:
        """Return whether all ``targets`` are lifted; default those of the scene."""
        lifted = {cube.colour for cube in self.objects if cube.lifted}
        return lifted >= set(targets or self.targets)


class ArmSim:
    """Simulation of the arms of a contract, their cameras, and one to three cubes on pedestals.

    ``sim_arm`` has its own MuJoCo model; the model of any other robot is built from contract and
    URDF.

    Args:
        contract: joints, limits, cameras.
        render: False creates no GL context; then images cannot be rendered.
        camera_jitter_m: standard deviation of the position of the scene camera, drawn at each
            reset.
        controller: receives the commands; default one joint trajectory controller for all joints.

    Attributes:
        scene: the current one.
        trace: collects every physics step if set; None by default.

    Raises:
        RenderingError: ``render`` is True and no GL library works.
    """

    TIMESTEP = TIMESTEP

    def __init__(
        self,
        contract: Contract,
        *,
        render: bool = True,
        camera_jitter_m: float = 0.06,
        controller: Controller | ControllerGroup | None = None,
    ) -> None:
        try:
            # Also without rendering: mujoco is imported once, and a later ArmSim may render.
            choose_gl()
        except RenderingError:
            if render:
                raise
        try:
            import mujoco  # after choose_gl: importing it loads the GL library
        # PyOpenGL raises either error for a missing library.
        except (ImportError, AttributeError) as error:
            raise RenderingError(no_library(error)) from None

        self._mujoco = mujoco
        self._contract = contract
        sizes = {camera.name: (camera.width, camera.height) for camera in contract.cameras}
        build = build_sim_arm if contract.robot == SIM_ARM else build_robot_model
        self._parts = build(contract)
        self._model = self._parts.model
        self._data = mujoco.MjData(self._model)
        self._renderers = (
            {size: self._make_renderer(size) for size in set(sizes.values())} if render else {}
        )
        self._sizes = sizes
        self._jitter = camera_jitter_m

        self._servos = self._parts.servos
        commanded = [self._model.joint(name) for name in self._parts.commanded]
        self._qpos = np.array([joint.qposadr[0] for joint in commanded])
        self._dof = np.array([joint.dofadr[0] for joint in commanded])
        limits = JointLimits.of(contract)
        # Any: callers that send commands know which one it is; a group takes none itself.
        self.controller: Any = controller or JointTrajectoryController(
            limits.names, limits.lower, limits.upper, limits.velocity
        )
        self._cube_qpos = [self._model.joint(f"cube{cube}").qposadr[0] for cube in range(MAX_CUBES)]
        self._cube_geom = {self._model.geom(f"cube{cube}").id: cube for cube in range(MAX_CUBES)}
        self.hands = self._parts.hands
        self._sites = {hand.arm: self._model.site(hand.site).id for hand in self.hands}
        self._fingers = frozenset().union(*(hand.fingers for hand in self.hands))
        jittered = self._parts.jittered_camera
        self._scene_camera = None if jittered is None else self._model.camera(jittered).id
        self._scene_position = (
            None if jittered is None else self._model.cam_pos[self._scene_camera].copy()
        )
        self._clock_offset = 0.0
        self._episode = 0
        self.trace: MotionTrace | None = None
        self.reset(0)

    @property
    def time(self) -> float:
        """Simulated time since construction [s]; a reset does not set it back."""
        return self._clock_offset + self._data.time

    def reset(self, seed: int, cubes: int = 0) -> Scene:
        """Make a new scene, the same for the same seed.

        Args:
            cubes: 1 to 3; 0 means 2 or 3, by the seed.

        Raises:
            ValueError: seed or cubes are out of range.
        """
        if seed < 0 or not 0 <= cubes <= MAX_CUBES:
            raise ValueError(
                f"reset: got seed {seed} and cubes {cubes}; give a seed of 0 or more, and 0 to"
                f" {MAX_CUBES} cubes"
            )
        rng = np.random.default_rng(seed)
        count = cubes or int(rng.integers(2, MAX_CUBES + 1))
        self._clock_offset += self._data.time
        self._mujoco.mj_resetData(self._model, self._data)

        colours = [
            list(CUBE_COLOURS)[index] for index in rng.permutation(len(CUBE_COLOURS))[:MAX_CUBES]
        ]
        positions, owners = scatter(rng, [hand.cube_area for hand in self.hands])
        table = self._parts.table
        heights = table + rng.uniform(0.0, self._parts.pedestal_height, MAX_CUBES)
        for cube in range(MAX_CUBES):
            used = cube < count
            geom = self._model.geom(f"cube{cube}").id
            self._model.geom_rgba[geom] = [*CUBE_COLOURS[colours[cube]], float(used)]
            self._data.mocap_pos[cube] = [
                *positions[cube],
                heights[cube] - PEDESTAL_DEPTH if used else table - 1.0,
            ]
            centre = (
                [*positions[cube], heights[cube] + CUBE_HALF + 0.0005] if used else self._parts.away
            )
            self._data.qpos[self._cube_qpos[cube] : self._cube_qpos[cube] + 7] = [
                *centre,
                1,
                0,
                0,
                0,
            ]
        target = int(rng.integers(count))
        targets = self._choose_targets(rng, target, owners[:count])

        moved = rng.normal(0.0, 1.0, 3) * self._jitter
        if self._scene_camera is not None and self._scene_position is not None:
            self._model.cam_pos[self._scene_camera] = self._scene_position + moved
        joints = self._parts.start(rng)
        set_joints(self._model, self._data, self._servos, joints)
        self.controller.hold(joints)
        self._mujoco.mj_forward(self._model, self._data)

        self._colours = tuple(colours[:count])
        self._supports = heights[:count]
        self._touched = [False] * count
        self._episode += 1
        named = tuple(colours[cube] for cube in targets)
        arms = tuple(self.hands[owner].arm for owner in owners[:count])
        self.scene = Scene(seed, canonical(*named), colours[target], self._colours, named, arms)
        return self.scene

    def step(self, steps: int = 1) -> None:
        """Advance ``steps`` physics steps of :attr:`TIMESTEP`; the servos follow the controller."""
        data, servos = self._data, self._servos
        for _ in range(steps):
            measured = data.qpos[self._qpos], data.qvel[self._dof]
            position, velocity = self.controller.sample(self.time, measured)
            # Velocity feed-forward: the servo's damping acts on the error of the velocity.
            feed_forward = servos.multiplier * velocity[servos.source] * servos.feed_forward
            data.ctrl[:] = self._servo_targets(position) + feed_forward
            trace = self.trace
            before = (
                None
                if trace is None
                else (self.time, self.joint_positions(), self.joint_velocities())
            )
            self._mujoco.mj_step(self._model, data)
            # Body positions are those at the beginning of the step.
            if trace is not None and before is not None:
                trace.add(*before, position, self.tool_position())
            if data.ncon:
                self._note_touches()

    def joint_positions(self) -> np.ndarray:
        """Return measured positions (J,) [rad, m] in the order of ``contract.command_joints``."""
        return self._data.qpos[self._qpos].copy()

    def joint_velocities(self) -> np.ndarray:
        """Return measured velocities (J,) [rad/s, m/s] in the same order."""
        return self._data.qvel[self._dof].copy()

    def tool_position(self, arm: str | None = None) -> np.ndarray:
        """Return the tool position (3,) [m] of an arm in the base frame; default the first arm."""
        return self._data.site_xpos[self._sites[arm or self.hands[0].arm]].copy()

    def render(self, camera: str) -> np.ndarray:
        """Render a colour image (H, W, 3) uint8 RGB."""
        renderer = self._renderer(camera)
        renderer.disable_depth_rendering()
        renderer.update_scene(self._data, camera)
        return renderer.render()

    def depth(self, camera: str) -> np.ndarray:
        """Render the depth along the optical axis (H, W) float32 [m]."""
        renderer = self._renderer(camera)
        renderer.enable_depth_rendering()
        renderer.update_scene(self._data, camera)
        return renderer.render()

    def intrinsics(self, camera: str) -> np.ndarray:
        """Return the camera matrix (3, 3) [pixels]."""
        width, height = self._sizes[camera]
        focal = 0.5 * height / np.tan(0.5 * np.deg2rad(self._model.camera(camera).fovy[0]))
        return np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])

    def camera_pose(self, camera: str) -> tuple[np.ndarray, np.ndarray]:
        """Return rotation (3, 3) and position (3,) [m] of the optical frame (z forward, y down, REP
        103) in the base frame.
        """
        index = self._model.camera(camera).id
        rotation = self._data.cam_xmat[index].reshape(3, 3) @ np.diag([1.0, -1.0, -1.0])
        return rotation, self._data.cam_xpos[index].copy()

    def cube_position(self, colour: str) -> np.ndarray:
        """Return the centre (3,) [m] of a cube in the base frame."""
        return self._cube_centre(self._colours.index(colour))

    def support_height(self, colour: str) -> float:
        """Return the height of the pedestal under a cube at the reset [m]."""
        return float(self._supports[self._colours.index(colour)])

    def task_state(self) -> TaskState:
        """Return the ground truth of the task."""
        tools = {hand.arm: self.tool_position(hand.arm) for hand in self.hands}
        objects = []
        for cube, colour in enumerate(self._colours):
            centre = self._cube_centre(cube)
            raised = centre[2] > self._supports[cube] + CUBE_HALF + LIFT_HEIGHT
            arm = min(tools, key=lambda arm: float(np.linalg.norm(centre - tools[arm])))
            held = bool(raised and np.linalg.norm(centre - tools[arm]) < HELD_DISTANCE)
            objects.append(
                ObjectState(colour, centre, held, self._touched[cube], arm if held else "")
            )
        return TaskState(
            self.scene.seed,
            self._episode,
            self.scene.instruction,
            self.scene.target,
            tuple(objects),
            tools[self.scene.arm_of(self.scene.target)],
            self.scene.targets,
        )

    def close(self) -> None:
        """Free the GL contexts."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers = {}

    def _choose_targets(
        self, rng: np.random.Generator, target: int, owners: np.ndarray
    ) -> tuple[int, ...]:
        """Return the target, and in some scenes a second one for another arm."""
        if len(self.hands) == 1:
            return (target,)
        others = np.flatnonzero(owners != owners[target])
        if rng.random() > TWO_TARGETS_SHARE or not len(others):
            return (target,)
        return target, int(rng.choice(others))

    def _servo_targets(self, positions: np.ndarray) -> np.ndarray:
        servos = self._servos
        return servos.multiplier * positions[servos.source] + servos.offset

    def _make_renderer(self, size: tuple[int, int]) -> Any:
        try:
            renderer = self._mujoco.Renderer(self._model, size[1], size[0])
        except Exception as error:  # GL back ends raise their own types
            raise RenderingError(
                f"rendering does not start ({error}); install libegl1 and libgl1-mesa-dri, or set"
                " MUJOCO_GL"
            ) from None
        for flag in (
            self._mujoco.mjtRndFlag.mjRND_SHADOW,
            self._mujoco.mjtRndFlag.mjRND_REFLECTION,
        ):
            renderer.scene.flags[flag] = 0
        return renderer

    def _renderer(self, camera: str) -> Any:
        if not self._renderers:
            raise RenderingError("this ArmSim was made with render=False")
        return self._renderers[self._sizes[camera]]

    def _cube_centre(self, index: int) -> np.ndarray:
        start = self._cube_qpos[index]
        return self._data.qpos[start : start + 3].copy()

    def _note_touches(self) -> None:
        for first, second in self._data.contact.geom:
            for cube, other in ((first, second), (second, first)):
                index = self._cube_geom.get(cube, MAX_CUBES)
                if index < len(self._touched) and other in self._fingers:
                    self._touched[index] = True


def scatter(
    rng: np.random.Generator, areas: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw positions (N, 2) [m] of all cubes, and the index (N,) of the area that each is in."""
    spacing = min(
        _CUBE_SPACING, *(_SPACING_SHARE * float((upper - lower).max()) for lower, upper in areas)
    )
    owners = np.zeros(MAX_CUBES, dtype=int)
    if len(areas) > 1:
        owners = rng.integers(len(areas), size=MAX_CUBES)
    lower, upper = (np.array([areas[owner][end] for owner in owners]) for end in (0, 1))
    while True:
        positions = rng.uniform(lower, upper)
        offsets = positions[:, None] - positions[None]
        distances = np.linalg.norm(offsets, axis=-1) + np.eye(MAX_CUBES)
        if distances.min() > spacing:
            return positions, owners
