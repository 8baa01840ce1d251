"""Write the RViz configuration of a robot from its contract, for ``rviz:=true``: the arm, its
frames, its cameras, the workspace and the planned path.

Topics are as in the contract. RViz resolves relative ones in the namespace of its node, so the same
file serves every namespace. Property names are those of rviz_default_plugins 14 (ros2/rviz at
f7112b1a).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import yaml

from sf_policy_node.contract import Camera, Contract

_COMPRESSED = "/compressed"  # RViz takes the transport from the end of the topic
_DISTANCE_M = 1.2  # smallest distance of the camera from the middle of the workspaces


def rviz_config(contract: Contract) -> dict[str, Any]:
    """Return the configuration as RViz reads it (YAML)."""
    displays = [
        _display("Grid", "Table", {"Cell Size": 0.1, "Plane Cell Count": 12}),
        _display(
            "RobotModel",
            "Arm",
            {
                "Description Source": "Topic",
                "Description Topic": _topic(
                    contract.description_topic or "robot_description", is_latched=True
                ),
                # Links of the URDF are the frames: a graph in a namespace has its own /tf.
                "TF Prefix": "",
            },
        ),
        _display("TF", "Frames", {"Show Names": True, "Marker Scale": 0.2}),
        _display(
            "MarkerArray",
            "Workspace and planned path",
            {"Topic": _topic("markers", is_latched=True)},
        ),
    ]
    displays += [
        _display("Image", f"Camera {camera.name}", {"Topic": _topic(camera.topic)})
        for camera in contract.cameras
        if _is_shown(camera)
    ]
    return {
        "Panels": [
            {
                "Class": "rviz_common/Displays",
                "Name": "Displays",
                "Property Tree Widget": {"Splitter Ratio": 0.5},
            },
            {"Class": "rviz_common/Views", "Name": "Views"},
        ],
        "Visualization Manager": {
            "Class": "",
            "Displays": displays,
            "Global Options": {
                "Background Color": "48; 48; 48",
                "Fixed Frame": contract.base_frame,
                "Frame Rate": 30,
            },
            "Tools": [{"Class": "rviz_default_plugins/MoveCamera"}],
            "Views": {"Current": _view(contract)},
        },
    }


def write_rviz_config(contract: Contract) -> Path:
    """Write the configuration to a temporary folder of the user; return the path of the file."""
    folder = Path(tempfile.gettempdir()) / f"sf_ros_rviz-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{contract.robot}.rviz"
    # Replaced as a whole: RViz of another namespace may be reading it.
    new = folder / f"{contract.robot}-{os.getpid()}.new"
    new.write_text(yaml.safe_dump(rviz_config(contract), sort_keys=False), encoding="utf-8")
    new.replace(path)
    return path


def _display(kind: str, name: str, properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "Class": f"rviz_default_plugins/{kind}",
        "Name": name,
        "Enabled": True,
        **properties,
    }


def _topic(name: str, *, is_latched: bool = False) -> dict[str, Any]:
    return {
        "Value": name,
        "Reliability Policy": "Reliable" if is_latched else "Best Effort",
        "Durability Policy": "Transient Local" if is_latched else "Volatile",
        "History Policy": "Keep Last",
        "Depth": 1,
    }


def _is_shown(camera: Camera) -> bool:
    """Return whether RViz subscribes to the topic with the camera's transport."""
    return (camera.transport == "compressed") == camera.topic.endswith(_COMPRESSED)


def _view(contract: Contract) -> dict[str, Any]:
    """Return a view of the middle of the workspaces that are given in the common base frame."""
    boxes = [
        arm.workspace for arm in contract.arms.values() if arm.base_frame == contract.base_frame
    ]
    middle, extent = [0.0, 0.0, 0.0], 0.0
    if boxes:
        lower = [min(values) for values in zip(*(box.lower for box in boxes), strict=True)]
        upper = [max(values) for values in zip(*(box.upper for box in boxes), strict=True)]
        middle = [0.5 * (low + high) for low, high in zip(lower, upper, strict=True)]
        extent = max(high - low for low, high in zip(lower, upper, strict=True))
    return {
        "Class": "rviz_default_plugins/Orbit",
        "Name": "Current View",
        "Distance": round(max(_DISTANCE_M, 2.0 * extent), 3),
        "Focal Point": {axis: round(value, 3) for axis, value in zip("XYZ", middle, strict=True)},
        "Pitch": 0.5,
        "Yaw": 0.8,
        "Target Frame": contract.base_frame,
    }
