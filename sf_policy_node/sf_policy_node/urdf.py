"""Read the joints of a URDF, for comparison with the contract and for its hash.

Pinocchio computes the kinematics; this module knows only the tree of links, to report a wrong robot
description in one sentence. Rules: https://wiki.ros.org/urdf/XML/joint
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np

MOVING = ("revolute", "continuous", "prismatic")
_DIGITS = 6  # micrometres and microradians: smaller differences of the kinematics are ignored


class UrdfError(ValueError):
    """Raised for an unusable robot description; the message is one sentence with the cure."""


@dataclass(frozen=True)
class UrdfJoint:
    """One joint of a URDF.

    Limits are ``None`` where the URDF gives none.

    ``origin``: (4, 4) pose of the joint in its parent link at position 0. ``axis``: unit vector
    (3,). ``mimics``: name of the joint that it follows.
    """

    name: str
    kind: str
    parent: str
    child: str
    origin: np.ndarray
    axis: np.ndarray
    lower: float | None = None
    upper: float | None = None
    velocity: float | None = None
    mimics: str | None = None

    @property
    def unit(self) -> str | None:
        """Return the unit of its position: ``rad`` or ``m``; ``None`` for another kind of joint."""
        return {"revolute": "rad", "continuous": "rad", "prismatic": "m"}.get(self.kind)


class RobotDescription:
    """Links and joints of a URDF.

    Args:
        xml: the URDF.
        source: its file name, for messages.

    Raises:
        UrdfError: not a URDF, or a joint of it is wrong.
    """

    def __init__(self, xml: str, source: str = "URDF") -> None:
        self._source = source
        root = _parse(xml, source)
        self.links = {each.get("name", "") for each in root.findall("link")}
        self.joints: dict[str, UrdfJoint] = {}
        for element in root.findall("joint"):
            joint = self._joint(element)
            if joint.name in self.joints:
                raise UrdfError(
                    f"{source}: joint {joint.name} is defined twice; rename one of them"
                )
            self.joints[joint.name] = joint
        self._above = {joint.child: joint for joint in self.joints.values()}

    def link_of(self, frame: str) -> str | None:
        """Return the link ``frame``, or the child link of the joint ``frame``; else ``None``."""
        if frame in self.links:
            return frame
        return self.joints[frame].child if frame in self.joints else None

    def path(self, base: str, tool: str) -> tuple[list[UrdfJoint], list[UrdfJoint]]:
        """Return the joints from ``base`` up to the first common link, then down to ``tool``.

        Raises:
            UrdfError: a frame is missing, or nothing connects the two.
        """
        up, down = self.ancestors(base), self.ancestors(tool)
        while up and down and up[-1] is down[-1]:
            up.pop()
            down.pop()
        ends = [
            path[-1].parent if path else self.link_of(frame)
            for path, frame in ((up, base), (down, tool))
        ]
        if ends[0] != ends[1]:
            raise UrdfError(f"{self._source}: no joints connect {base} and {tool}")
        return up, down[::-1]

    def kinematics(self, base: str, tool: str) -> dict[str, dict]:
        """Return the kinematics from ``base`` to ``tool`` as plain numbers for JSON.

        Fixed joints are merged into the next moving one, so that only a change of the motion
        changes the
        result: not a comment, a limit, a mesh, the name of a link or one more fixed link.

        Raises:
            UrdfError: see :meth:`path`.
        """
        up, down = self.path(base, tool)
        place, result = np.eye(4), {}
        for joint, forward in (*((each, False) for each in up), *((each, True) for each in down)):
            if joint.kind == "fixed":
                place = place @ (joint.origin if forward else np.linalg.inv(joint.origin))
                continue
            if forward:
                place = place @ joint.origin
            result[joint.name] = {
                "kind": (
                    "prismatic"
                    if joint.kind == "prismatic"
                    else "revolute"
                    if joint.unit
                    else joint.kind
                ),
                "axis": _rounded(joint.axis if forward else -joint.axis),
                **_pose(place),
            }
            place = np.eye(4) if forward else np.linalg.inv(joint.origin)
        result["tool"] = _pose(place)
        return result

    def ancestors(self, frame: str) -> list[UrdfJoint]:
        """Return the joints from a frame up to the root, nearest first.

        Raises:
            UrdfError: the frame is missing, or the joints form a circle.
        """
        link, joints = self.link_of(frame), []
        if link is None:
            raise UrdfError(f"{self._source}: has no link {frame!r}")
        while (joint := self._above.get(link)) is not None:
            joints.append(joint)
            link = joint.parent
            if len(joints) > len(self.joints):
                raise UrdfError(
                    f"{self._source}: the joints above {frame} form a circle; correct their parents"
                )
        return joints

    def _joint(self, element: ElementTree.Element) -> UrdfJoint:
        name, kind = element.get("name", ""), element.get("type", "")
        if not name:
            raise UrdfError(f"{self._source}: a joint has no name; give it one")
        parent, child = (self._link(element, name, key) for key in ("parent", "child"))
        axis = self._vector(element, name, "axis", "xyz", (1.0, 0.0, 0.0))
        length = float(np.linalg.norm(axis))
        if kind in (*MOVING, "planar") and length < 1e-6:
            raise UrdfError(
                f"{self._source}: joint {name}: axis {axis.tolist()} has no direction; give a unit"
                " vector such as 0 0 1"
            )
        limit = element.find("limit")
        lower, upper, velocity = (
            self._limit(limit, name, key) for key in ("lower", "upper", "velocity")
        )
        mimic = element.find("mimic")
        return UrdfJoint(
            name=name,
            kind=kind,
            parent=parent,
            child=child,
            origin=_transform(
                self._vector(element, name, "origin", "xyz", (0.0, 0.0, 0.0)),
                self._vector(element, name, "origin", "rpy", (0.0, 0.0, 0.0)),
            ),
            axis=axis / length if length else axis,
            lower=None if kind == "continuous" else lower,
            upper=None if kind == "continuous" else upper,
            velocity=velocity or None,  # exporters write 0 for "unknown"
            mimics=None if mimic is None else mimic.get("joint", ""),
        )

    def _link(self, element: ElementTree.Element, joint: str, key: str) -> str:
        child = element.find(key)
        name = "" if child is None else child.get("link", "")
        if name not in self.links:
            raise UrdfError(
                f"{self._source}: joint {joint}: its {key} {name or '(none)'} is not a link of the"
                " URDF"
            )
        return name

    def _vector(self, element, joint: str, tag: str, key: str, default: tuple) -> np.ndarray:
        child = element.find(tag)
        text = None if child is None else child.get(key)
        if text is None:
            return np.array(default)
        try:
            values = np.array([float(word) for word in text.split()])
        except ValueError:
            values = np.empty(0)
        if values.shape != (3,) or not np.isfinite(values).all():
            raise UrdfError(
                f"{self._source}: joint {joint}: {tag} {key}={text!r} is not three numbers"
            )
        return values

    def _limit(self, limit: ElementTree.Element | None, joint: str, key: str) -> float | None:
        text = None if limit is None else limit.get(key)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if math.isnan(value):
            raise UrdfError(f"{self._source}: joint {joint}: limit {key}={text!r} is not a number")
        return value


def _parse(xml: str, source: str) -> ElementTree.Element:
    """Return the element ``robot``.

    Raises:
        UrdfError: not XML, a xacro file, or another document.
    """
    expand = (
        f"run `xacro {source} > robot.urdf` (with the arguments of your robot) and name the result"
        " in the contract"
    )
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError as error:
        if "<xacro:" in xml:
            raise UrdfError(f"{source}: is a xacro file, not a URDF; {expand}") from None
        raise UrdfError(
            f"{source}: cannot be parsed as XML ({error}); export the URDF again"
        ) from None
    for element in root.iter():
        if (
            isinstance(element.tag, str)
            and element.tag.startswith("{")
            and "xacro" in element.tag.split("}")[0]
        ):
            word = element.tag.split("}")[1]
            raise UrdfError(
                f"{source}: is a xacro file (it has xacro:{word}), not a URDF; {expand}"
            )
        if element.tag in ("joint", "link", "origin", "axis", "limit") and any(
            "${" in value or "$(" in value for value in element.attrib.values()
        ):
            raise UrdfError(f"{source}: <{element.tag}> has an expression of xacro; {expand}")
    if root.tag != "robot":
        raise UrdfError(
            f"{source}: is not a URDF: its first element is <{root.tag}>, not <robot>; name a URDF"
            " file"
        )
    return root


def _transform(xyz: np.ndarray, rpy: np.ndarray) -> np.ndarray:
    """Return the pose (4, 4) of an offset and fixed-axis roll, pitch, yaw."""
    (sr, sp, sy), (cr, cp, cy) = np.sin(rpy), np.cos(rpy)
    result = np.eye(4)
    result[:3, :3] = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    result[:3, 3] = xyz
    return result


def _pose(place: np.ndarray) -> dict[str, list]:
    return {"xyz": _rounded(place[:3, 3]), "rotation": _rounded(place[:3, :3].ravel())}


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), _DIGITS) + 0.0 for value in values]  # + 0.0: -0.0 is 0.0
