"""Add the common parts of a scene to a MuJoCo specification: light, table, cubes on pedestals."""

from __future__ import annotations

from typing import Any

from sf_training.simulation.scene import (
    CUBE_HALF,
    MAX_CUBES,
    PEDESTAL_DEPTH,
    PEDESTAL_HALF,
    TIMESTEP,
)

# Contact bits: grippers collide with objects and table, objects with each other, arm links with
# nothing.
GRIPPER = {"contype": 1, "conaffinity": 2}
OBJECT = {"contype": 2, "conaffinity": 3}
NOTHING = {"contype": 0, "conaffinity": 0}
_FRICTION = [1.5, 0.02, 0.001]


def set_options(spec: Any, width: int, height: int) -> None:
    """Set the physics options, and an offscreen buffer of ``width`` x ``height`` pixels."""
    import mujoco

    spec.option.timestep = TIMESTEP
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10
    visual = spec.visual
    visual.global_.offwidth, visual.global_.offheight = width, height
    visual.quality.shadowsize = visual.quality.offsamples = 0
    visual.map.znear, visual.map.zfar = 0.01, 10.0
    visual.headlight.ambient, visual.headlight.diffuse = [0.35] * 3, [0.4] * 3
    visual.headlight.specular = [0.0] * 3
    spec.stat.extent = 1.0  # so that znear and zfar are in metres


def add_table(
    spec: Any, centre: tuple[float, float], half: tuple[float, float], height: float
) -> None:
    """Add a light, a floor, and a table whose top is at ``height`` [m] in the base frame."""
    import mujoco

    world = spec.worldbody
    world.add_light(
        name="top",
        pos=[centre[0], centre[1] + 0.2, height + 1.8],
        dir=[0, 0, -1],
        diffuse=[0.5] * 3,
        castshadow=False,
    )
    world.add_geom(
        name="floor",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[3, 3, 0.1],
        pos=[0, 0, height - 0.4],
        rgba=[0.3, 0.33, 0.36, 1],
        **NOTHING,
    )
    world.add_geom(
        name="table",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[*half, 0.02],
        pos=[*centre, height - 0.02],
        rgba=[0.72, 0.65, 0.55, 1],
        **OBJECT,
    )


def add_cubes(spec: Any) -> None:
    """Add ``cube0`` to ``cube2`` and their pedestals; :class:`ArmSim` positions them."""
    import mujoco

    for number in range(MAX_CUBES):
        pedestal = spec.worldbody.add_body(name=f"pedestal{number}", mocap=True, pos=[0, 0, -1])
        pedestal.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=[PEDESTAL_HALF, PEDESTAL_HALF, PEDESTAL_DEPTH],
            rgba=[0.55, 0.5, 0.45, 1],
            **OBJECT,
        )
        cube = spec.worldbody.add_body(name=f"cube{number}", pos=[0.3 + 0.1 * number, 0, 0.2])
        cube.add_freejoint(name=f"cube{number}")
        cube.add_geom(
            name=f"cube{number}",
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=[CUBE_HALF] * 3,
            mass=0.04,
            friction=_FRICTION,
            condim=4,
            **OBJECT,
        )
