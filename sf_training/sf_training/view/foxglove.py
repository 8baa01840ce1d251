"""Make a Foxglove layout for a robot: the arm in 3D with its markers, cameras, joints, commands and
states. It shows MCAP episodes and live topics.
"""

from __future__ import annotations

from sf_policy_node.contract import Contract
from sf_training.recording.topics import absolute
from sf_training.view.page import COLOURS


def layout(contract: Contract) -> dict:
    """Return the layout as Foxglove imports it (JSON): the 3D scene and cameras on the left, curves
    and states on the right.
    """
    topics = contract.topics
    panels: dict[str, dict] = {}
    panels["3D!arm"] = _scene(contract.base_frame)
    left_panels = ["3D!arm"]
    for camera in contract.cameras:
        mode = {"imageTopic": absolute(camera.topic)}
        if camera.info_topic:
            mode["calibrationTopic"] = absolute(camera.info_topic)
        panels[f"Image!{camera.name}"] = {
            "imageMode": mode,
            "foxglovePanelTitle": f"{camera.name} camera",
        }
        left_panels.append(f"Image!{camera.name}")
    measured, commanded = absolute(topics.joint_states), absolute(topics.teleop_command)
    panels["Plot!joints"] = _plot(
        "Joints: measured, and the operator's commands",
        [
            (f"{measured}.position[{index}]", name, index, 1.5)
            for index, name in enumerate(contract.command_joints)
        ]
        + [
            (f"{commanded}.position[{index}]", f"{name} commanded", index, 0.7)
            for index, name in enumerate(contract.command_joints)
        ],
    )
    panels["Plot!executor"] = _plot(
        "Latency and age",
        [
            (f"{absolute(topics.action_chunk)}.inference_latency_s", "inference [s]", 0, 1.0),
            (f"{absolute(topics.executor_status)}.chunk_age_s", "age of the chunk [s]", 1, 1.0),
        ],
    )
    panels["StateTransitions!states"] = {
        "paths": [
            {
                "value": f"{topic}.{field}",
                "label": label,
                "enabled": True,
                "timestampMethod": "receiveTime",
            }
            for topic, field, label in (
                (absolute(topics.instruction), "data", "instruction"),
                (absolute(topics.control_source), "source", "control source"),
                (absolute(topics.policy_status), "state", "policy"),
                (absolute(topics.executor_status), "state", "executor"),
                (absolute(topics.emergency_stop), "data", "emergency stop"),
            )
        ],
        "isSynced": True,
        "foxglovePanelTitle": "States",
    }
    panels["DiagnosticSummary!diagnostics"] = {
        "topicToRender": "/diagnostics",
        "minLevel": 0,
        "pinnedIds": [],
        "hardwareIdFilter": "",
    }
    panels["RawMessages!recorder"] = {
        "topicPath": "/recorder/status",
        "foxglovePanelTitle": "Recorder",
    }
    lower = _split("row", "DiagnosticSummary!diagnostics", "RawMessages!recorder", 50)
    curves = _split(
        "column",
        "Plot!joints",
        _split(
            "column", "StateTransitions!states", _split("column", "Plot!executor", lower, 50), 38
        ),
        42,
    )
    return {
        "configById": panels,
        "globalVariables": {},
        "userNodes": {},
        "playbackConfig": {"speed": 1},
        "layout": _split("row", _column(left_panels), curves, 45),
    }


def _scene(frame: str) -> dict:
    """Return the 3D panel: the arm's meshes, its frames, the workspace box and the planned path."""
    return {
        "foxglovePanelTitle": "Arm",
        "followTf": frame,
        "followMode": "follow-pose",
        "scene": {"transforms": {"labelSize": 0.05, "axisScale": 0.2}},
        "cameraState": {
            "perspective": True,
            "distance": 1.4,
            "phi": 60,
            "thetaOffset": 45,
            "targetOffset": [0.25, 0, 0.15],
            "target": [0, 0, 0],
            "targetOrientation": [0, 0, 0, 1],
            "fovy": 45,
            "near": 0.01,
            "far": 100,
        },
        "topics": {topic: {"visible": True} for topic in ("/robot_description", "/markers")},
        "layers": {
            "grid": {"layerId": "foxglove.Grid", "visible": True, "size": 2, "divisions": 20}
        },
    }


def _plot(title: str, paths: list[tuple[str, str, int, float]]) -> dict:
    return {
        "foxglovePanelTitle": title,
        "paths": [
            {
                "value": value,
                "label": label,
                "enabled": True,
                "timestampMethod": "receiveTime",
                "color": COLOURS[colour % len(COLOURS)],
                "lineSize": size,
            }
            for value, label, colour, size in paths
        ],
        "showXAxisLabels": True,
        "showYAxisLabels": True,
        "showLegend": True,
        "legendDisplay": "floating",
        "isSynced": True,
        "xAxisVal": "timestamp",
    }


def _split(direction: str, first: str | dict, second: str | dict, percentage: int) -> dict:
    return {"direction": direction, "first": first, "second": second, "splitPercentage": percentage}


def _column(names: list[str]) -> str | dict:
    """Stack panels of equal height."""
    if len(names) == 1:
        return names[0]
    return _split("column", names[0], _column(names[1:]), round(100 / len(names)))
