"""Build the MuJoCo model of ``sim_arm`` and its table, without meshes so that it loads and renders
fast.

Kinematics and joint names equal those of ``sf_bringup/config/robots/sim_arm.urdf``; a test compares
them.
"""

from __future__ import annotations

import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.motion.arm.kinematics import Kinematics, ToolPose
from sf_training.simulation.sim_model import TOOL_DOWN, Approach, Hand, Servos, SimModel

CUBE_COLOURS = {
    "red": (0.85, 0.10, 0.10),
    "green": (0.10, 0.65, 0.15),
    "blue": (0.10, 0.20, 0.85),
    "yellow": (0.90, 0.80, 0.10),
}
CUBE_HALF = 0.018  # m
MAX_CUBES = 3
PEDESTAL_HALF = 0.03  # m
PEDESTAL_HEIGHT_MAX = 0.08  # m above the table
PEDESTAL_DEPTH = 0.15  # m, half of the height; the table hides the lower part
TIMESTEP = 0.005  # s
STIFFNESS = 2000.0  # N m/rad of the joint servos
DAMPING = 80.0  # N m s/rad of the joint servos
FINGER_STIFFNESS = 600.0  # N/m
FINGER_DAMPING = 25.0  # N s/m
CAMERAS = ("scene", "wrist")
_START = np.array([0.30, 0.0, 0.20])  # m, mean start position of the tool
_START_SPREAD = np.array([0.06, 0.10, 0.03])
_IK_SEED = np.array([0.0, 0.4, 1.4, 1.3, 0.0, 0.0])
_CUBE_AREA = (np.array([0.22, -0.18]), np.array([0.42, 0.18]))
_AWAY = np.array([-0.1, 0.46, CUBE_HALF])


def build_sim_arm(contract: Contract) -> SimModel:
    """Return the simulation of ``sim_arm``.

    Args:
        contract: with the joints of ``sim_arm``.

    Raises:
        ValueError: the contract has a camera that the model lacks.
    """
    import mujoco

    sizes = [(camera.width, camera.height) for camera in contract.cameras]
    unknown = {camera.name for camera in contract.cameras} - set(CAMERAS)
    if unknown:
        raise ValueError(
            f"cameras: {', '.join(sorted(unknown))} is not in the model of sim_arm; use"
            f" {' and '.join(CAMERAS)}"
        )
    width, height = (max(values) for values in zip(*sizes, strict=True))
    model = mujoco.MjModel.from_xml_string(build_mjcf(width, height))
    kinematics, opening = Kinematics(contract), contract.only_arm.fitted_gripper.open
    middle = ToolPose(_START, TOOL_DOWN)

    def start(random: np.random.Generator) -> np.ndarray:
        pose = ToolPose(_START + random.uniform(-_START_SPREAD, _START_SPREAD), TOOL_DOWN)
        return np.append(kinematics.inverse(pose, _IK_SEED).positions, opening)

    damping = [DAMPING / STIFFNESS] * 6 + [FINGER_DAMPING / FINGER_STIFFNESS] * 2
    servos = Servos(
        joints=(*contract.command_joints, "right_finger_joint"),
        source=np.array([*range(7), 6]),
        multiplier=np.ones(8),
        offset=np.zeros(8),
        feed_forward=np.array(damping),
    )
    fingers = frozenset(model.geom(name).id for name in ("left_finger", "right_finger"))
    return SimModel(
        model=model,
        servos=servos,
        commanded=tuple(contract.command_joints),
        hands=(
            Hand(
                arm=next(iter(contract.arms)),
                site="tool0",
                fingers=fingers,
                approach=Approach(TOOL_DOWN),
                home=np.append(kinematics.inverse(middle, _IK_SEED).positions, opening),
                cube_area=_CUBE_AREA,
            ),
        ),
        jittered_camera="scene",
        table=0.0,
        pedestal_height=PEDESTAL_HEIGHT_MAX,
        away=_AWAY,
        start=start,
    )


def build_mjcf(width: int, height: int) -> str:
    """Return the scene as MJCF, with an offscreen buffer of ``width`` x ``height`` pixels."""
    cubes = "".join(_cube(index) for index in range(MAX_CUBES))
    arm_servos = "".join(
        f'<position class="arm" name="servo{n}" joint="joint{n}"/>' for n in range(1, 7)
    )
    return f"""
<mujoco model="sim_arm">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="10"/>
  <visual>
    <global offwidth="{width}" offheight="{height}"/>
    <quality shadowsize="0" offsamples="0"/>
    <map znear="0.01" zfar="10"/>
    <headlight ambient="0.35 0.35 0.35" diffuse="0.4 0.4 0.4" specular="0 0 0"/>
  </visual>
  <asset>
    <texture name="table" type="2d" builtin="checker" rgb1="0.75 0.68 0.58" rgb2="0.70 0.63 0.53" width="128" height="128"/>
    <material name="table" texture="table" texrepeat="8 8" reflectance="0" specular="0"/>
    <material name="link" rgba="0.9 0.9 0.92 1" specular="0.2"/>
    <material name="joint" rgba="0.25 0.3 0.4 1" specular="0.2"/>
  </asset>
  <default>
    <default class="arm">
      <joint damping="3" armature="0.05"/>
      <geom contype="0" conaffinity="0" mass="0.5"/>
      <position kp="{STIFFNESS}" kv="{DAMPING}"/>
    </default>
    <default class="finger">
      <joint type="slide" damping="5" armature="0.02" range="0 0.035"/>
      <geom type="box" material="joint" contype="1" conaffinity="3" friction="1.5 0.02 0.001" condim="4" mass="0.05"/>
      <position kp="{FINGER_STIFFNESS}" kv="{FINGER_DAMPING}" forcerange="-12 12"/>
    </default>
  </default>
  <worldbody>
    <light name="top" pos="0.3 0.2 1.8" dir="0 0 -1" diffuse="0.5 0.5 0.5" specular="0 0 0" castshadow="false"/>
    <geom name="floor" type="plane" size="3 3 0.1" pos="0 0 -0.4" rgba="0.3 0.33 0.36 1" contype="0" conaffinity="0"/>
    <geom name="table" type="box" size="0.45 0.5 0.02" pos="0.3 0 -0.02" material="table" contype="1" conaffinity="1"/>
    <camera name="scene" pos="0.8 -0.42 0.5" xyaxes="0.6432 0.7657 0 -0.4279 0.3594 0.8293" fovy="42"/>
    <body name="base_link">
      <geom type="cylinder" size="0.07 0.05" pos="0 0 0.05" material="joint" contype="0" conaffinity="0"/>
      <body name="link1" pos="0 0 0.10" childclass="arm" gravcomp="1">
        <joint name="joint1" axis="0 0 1" range="-2.8 2.8"/>
        <geom type="cylinder" size="0.05 0.05" pos="0 0 0.04" material="link"/>
        <body name="link2" pos="0 0 0.08" gravcomp="1">
          <joint name="joint2" axis="0 1 0" range="-1.8 2.2"/>
          <geom type="cylinder" size="0.05 0.06" euler="1.5708 0 0" material="joint"/>
          <geom type="capsule" size="0.035" fromto="0 0 0 0 0 0.28" material="link"/>
          <body name="link3" pos="0 0 0.28" gravcomp="1">
            <joint name="joint3" axis="0 1 0" range="-0.2 2.7"/>
            <geom type="cylinder" size="0.042 0.05" euler="1.5708 0 0" material="joint"/>
            <geom type="capsule" size="0.03" fromto="0 0 0 0 0 0.26" material="link"/>
            <body name="link4" pos="0 0 0.26" gravcomp="1">
              <joint name="joint4" axis="0 1 0" range="-2.2 2.6"/>
              <geom type="cylinder" size="0.035 0.04" euler="1.5708 0 0" material="joint"/>
              <body name="link5" gravcomp="1">
                <joint name="joint5" axis="1 0 0" range="-1.5 1.5"/>
                <geom type="capsule" size="0.025" fromto="0 0 0 0 0 0.05" material="link"/>
                <body name="hand" pos="0 0 0.06" gravcomp="1">
                  <joint name="joint6" axis="0 0 1" range="-3 3"/>
                  <geom type="box" size="0.025 0.05 0.015" pos="0 0 0.015" material="joint"/>
                  <geom type="box" size="0.025 0.012 0.008" pos="0.05 0 0" material="joint"/>
                  <camera name="wrist" pos="0.07 0 0" xyaxes="0 -1 0 -0.87 0 -0.5" fovy="75"/>
                  <site name="tool0" pos="0 0 0.10" size="0.004" rgba="0 0 0 0"/>
                  <body name="left_finger" pos="0 0.008 0.03" childclass="finger" gravcomp="1">
                    <joint name="gripper" axis="0 1 0"/>
                    <geom name="left_finger" size="0.010 0.006 0.04" pos="0 0 0.04"/>
                  </body>
                  <body name="right_finger" pos="0 -0.008 0.03" childclass="finger" gravcomp="1">
                    <joint name="right_finger_joint" axis="0 -1 0"/>
                    <geom name="right_finger" size="0.010 0.006 0.04" pos="0 0 0.04"/>
                  </body>
                </body>
              </body>
            </body>
          </body>
        </body>
      </body>
    </body>
    {cubes}
  </worldbody>
  <actuator>
    {arm_servos}
    <position class="finger" name="servo_left" joint="gripper"/>
    <position class="finger" name="servo_right" joint="right_finger_joint"/>
  </actuator>
</mujoco>"""  # noqa: E501


def _cube(index: int) -> str:
    return f"""
    <body name="pedestal{index}" mocap="true" pos="0 0 -1">
      <geom type="box" size="{PEDESTAL_HALF} {PEDESTAL_HALF} {PEDESTAL_DEPTH}" rgba="0.55 0.5 0.45 1" contype="2" conaffinity="1"/>
    </body>
    <body name="cube{index}" pos="{0.3 + 0.1 * index} 0 0.2">
      <freejoint name="cube{index}"/>
      <geom name="cube{index}" type="box" size="{CUBE_HALF} {CUBE_HALF} {CUBE_HALF}" mass="0.04"
            friction="1.5 0.02 0.001" condim="4" contype="1" conaffinity="3"/>
    </body>"""  # noqa: E501
