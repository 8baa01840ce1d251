"""The robot contract: one YAML per robot with its joints, limits, cameras, actions and topics.

Only these files hold these values. Nodes, recorder, training and checkpoints read them through
:func:`load_contract` and compare them by :attr:`Contract.hash`.
"""

from sf_policy_node.contract.columns import GRIPPER_COLUMN, Column, ColumnKind, Columns, Layout
from sf_policy_node.contract.robot_contract import (
    Contract,
    ContractError,
    load_contract,
    parse_contract,
    undecided_keys,
)
from sf_policy_node.contract.sections import (
    Action,
    ActionSpace,
    Arm,
    Budgets,
    Camera,
    Command,
    Finger,
    Finite,
    ForeignBags,
    Gripper,
    GripperCommand,
    Joint,
    JointName,
    Name,
    Positive,
    Topic,
    Topics,
    Workspace,
)
from sf_policy_node.contract.surroundings import (
    CameraMount,
    CollisionBox,
    CollisionCheck,
    Simulation,
)

__all__ = [
    "GRIPPER_COLUMN",
    "Action",
    "ActionSpace",
    "Arm",
    "Budgets",
    "Camera",
    "CameraMount",
    "CollisionBox",
    "CollisionCheck",
    "Column",
    "ColumnKind",
    "Columns",
    "Command",
    "Contract",
    "ContractError",
    "Finger",
    "Finite",
    "ForeignBags",
    "Gripper",
    "GripperCommand",
    "Joint",
    "JointName",
    "Layout",
    "Name",
    "Positive",
    "Simulation",
    "Topic",
    "Topics",
    "Workspace",
    "load_contract",
    "parse_contract",
    "undecided_keys",
]
