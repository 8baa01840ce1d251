"""Checks joint motions for collisions of links with each other and with stationary boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import coal
import numpy as np
import pinocchio

from sf_policy_node.contract import Arm, Contract, ContractError
from sf_policy_node.motion.arm.collision_bounds import (
    all_bounds,
    displacements,
    near_pairs,
    place_capsules,
    place_shapes,
)
from sf_policy_node.motion.arm.collision_distances import ExactDistances, refine
from sf_policy_node.motion.arm.joint_tree import JointTree
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.motion.arm.link_geometry import (
    LinkShape,
    box_shape,
    carriers,
    read_shapes,
)

MARGIN = 0.005  # m: shapes that are nearer than this touch
FURTHEST_STEP = 0.02  # m: if a shape moves further between two samples, samples are added
_HOMES_TRIED = 40  # random poses tried as home pose, besides 0 and the middle of all ranges
_RANDOM_POSES = 200  # a pair that touches in all of these poses is not checked
_CREEP = 1e-6  # m by which a pair that touches at the start may come closer


@dataclass(frozen=True)
class Box:
    """A stationary box with sides along the axes of the base frame [m]."""

    name: str
    lower: tuple[float, float, float]
    upper: tuple[float, float, float]


@dataclass(frozen=True)
class Collision:
    """Two links, ``distance`` [m] apart at sample ``index``; the distance is negative if they
    overlap.
    """

    index: int
    link_a: str
    link_b: str
    distance: float

    @property
    def sentence(self) -> str:
        """The collision as a message."""
        if self.distance <= 0.0:
            return f"{self.link_a} would touch {self.link_b}"
        return f"{self.link_a} would come within {1e3 * self.distance:.0f} mm of {self.link_b}"

    def is_worse_than(self, other: Collision, tolerance: float) -> bool:
        """Return whether other links touch, or the same ones are nearer by ``tolerance`` [m]."""
        same = {self.link_a, self.link_b} == {other.link_a, other.link_b}
        return not same or self.distance < other.distance - tolerance


class CollisionModel:
    """Computes the distances between the links of a robot, and between links and boxes.

    Pairs that are not checked are listed in :attr:`allowed` with the reason: links joined by one
    joint, links of one gripper, links that touch in the home pose or in every pose. A box, and a
    pair with a joint in between that is not commanded, are left out only in the last case.

    Args:
        urdf_xml: the robot; see :func:`link_geometry.read_shapes` for where meshes are found.
        names: the J commanded joints, in the order of all positions; other joints
            move only with :meth:`set_other_joints`.
        arm: those of ``names`` that do not belong to a gripper.
        tool_frame: of the arm, or of each arm.
        limits: lower and upper positions (J,), (J,) [rad or m] of ``names``.
        home: (J,) pose in which links may touch; None: the one of several poses in which the fewest
            links touch.
        boxes: obstacles around the robot, in ``base_frame`` and fixed to it.
        margin: shapes that are nearer than this touch [m].
        allowed: further pairs of links, or of a link and a box, that may touch.
        folders, capsule_radius: see :func:`link_geometry.read_shapes`.

    Raises:
        ContractError: the URDF does not parse, or a name in ``allowed`` is unknown.
    """

    def __init__(
        self,
        urdf_xml: str,
        names: Sequence[str],
        *,
        arm: Sequence[str],
        limits: tuple[np.ndarray, np.ndarray],
        base_frame: str,
        tool_frame: str | Sequence[str],
        boxes: Sequence[Box] = (),
        home: np.ndarray | None = None,
        margin: float = MARGIN,
        allowed: Sequence[tuple[str, str]] = (),
        folders: Sequence[Path] = (),
        capsule_radius: float | None = None,
    ) -> None:
        try:
            model = pinocchio.buildModelFromXML(urdf_xml)
        except (ValueError, RuntimeError) as error:
            raise ContractError(f"urdf: cannot be parsed ({error}); export it again") from None
        self.margin = margin
        self._tree = JointTree(model, urdf_xml, names, optional=set(names) - set(arm))
        base = model.frames[model.getFrameId(base_frame, pinocchio.FrameType.BODY)]
        pose, carrier = base.placement, base.parentJoint  # a lift may carry base frame and boxes
        self.shapes = read_shapes(model, urdf_xml, tool_frame, folders, capsule_radius)
        self.shapes += [
            box_shape(each.name, each.lower, each.upper, pose, carrier) for each in boxes
        ]
        self._boxes = len(boxes)
        self._carriers = {joint - 1: link.name for joint, link in carriers(model).items()}
        moved = self._tree.movers().any(axis=1)
        # By pinocchio joint (0: the base): whether no commanded joint moves what it carries.
        self._is_still = [
            not moved[self._tree.path(joint - 1, -1)].any() for joint in range(model.njoints)
        ]
        self._set_arrays()
        self._limits = tuple(np.asarray(each, float) for each in limits)
        self.allowed: dict[tuple[str, str], str] = {}
        self.touching_at_home: list[tuple[str, str]] = []
        """The pairs that touch in the home pose and are checked, because they can move apart."""
        self._pairs = self._candidate_pairs([name in arm for name in names], allowed)
        self._functions = [
            coal.ComputeDistance(self.shapes[i].geometry, self.shapes[j].geometry)
            for i, j in self._pairs
        ]
        self._allow_touching(home)

    @classmethod
    def of(cls, contract: Contract, boxes: Sequence[Box] = (), **options) -> CollisionModel:
        """Return the model of a contract's robot, for positions of ``contract.command_joints``.

        Args:
            boxes: added to those of ``contract.collision``.
            options: replace arguments of the constructor.
        """
        section, limits = contract.collision, JointLimits.of(contract)
        homes = [_home_of(arm) for arm in contract.arms.values()]
        home = None if None in homes else [value for each in homes for value in each]
        settings = {
            "margin": section.margin,
            "allowed": [(first, second) for first, second in section.allowed],
            "capsule_radius": section.capsule_radius,
            "folders": contract.mesh_folders,
            "home": None if home is None else np.array(home),
        }
        given = [Box(each.name, tuple(each.lower), tuple(each.upper)) for each in section.boxes]
        return cls(
            contract.urdf_xml,
            contract.command_joints,
            arm=contract.arm_joints,
            limits=(limits.lower, limits.upper),
            base_frame=contract.base_frame,
            tool_frame=[arm.tool_frame for arm in contract.arms.values()],
            boxes=[*given, *boxes],
            **settings | options,
        )

    @property
    def other_joints(self) -> list[str]:
        """The joints that are not commanded and move links of a checked pair, by name."""
        pairs = {(self.shapes[i].joint - 1, self.shapes[j].joint - 1) for i, j in self._pairs}
        return self._tree.drivers({joint for pair in pairs for joint in self._tree.path(*pair)})

    def set_other_joints(self, positions: Mapping[str, float]) -> None:
        """Take the measured positions [rad or m] of joints that are not commanded, by name."""
        self._tree.set_others(positions)

    def first_collision(
        self, positions: np.ndarray, start: np.ndarray | None = None
    ) -> Collision | None:
        """Return the first sample of ``positions`` (N, J) at which two links touch; None: no
        collision.

        Samples are joined by straight lines in joint space. Where a shape moves further than
        ``FURTHEST_STEP`` between two samples, samples in between are checked as well.

        Args:
            start: (J,) where the motion starts. Links that touch there may move apart, but not
                come closer. None: no links may touch.
        """
        positions = np.atleast_2d(np.asarray(positions, float))
        motion = positions if start is None else np.vstack([start, positions])
        indices = np.arange(len(motion))
        turns, origins, first, last = self._place(motion)
        moved = displacements(turns, first, last, self._radii)
        if moved.max(initial=0.0) > FURTHEST_STEP:
            samples, indices = refine(motion, moved.max(axis=1, initial=0.0)[1:] / FURTHEST_STEP)
            turns, origins, first, last = self._place(samples)
            moved = displacements(turns, first, last, self._radii)
        allowed = np.full(len(self._pairs), self.margin)
        exact = ExactDistances(self._functions, self._pairs, turns, origins, moved)
        if start is not None:
            bounds = self._bounds(turns[:1], origins[:1], first[:1], last[:1])[0]
            for pair in np.flatnonzero(bounds <= self.margin):
                allowed[pair] = min(self.margin, exact.at(0, pair) - _CREEP)
        near = near_pairs(
            self._pairs,
            self.margin,
            turns,
            origins,
            first,
            last,
            self._radii,
            self._box_centres,
            self._box_halves,
            moved,
        )
        seen: dict[int, int] = {}
        for sample, pair in near.tolist():
            if sample - seen.get(pair, sample) > 1:  # the pair was apart in between
                allowed[pair] = self.margin
            seen[pair] = sample
            distance = exact.unless_clear(sample, pair, self.margin)
            if distance is None:
                allowed[pair] = self.margin
            elif distance <= allowed[pair]:
                index = int(indices[sample]) - (start is not None)
                return self._collision(max(index, 0), pair, distance)
            else:  # the pair has moved apart and must not come closer again
                allowed[pair] = max(allowed[pair], min(self.margin, distance - _CREEP))
        return None

    def nearest(self, positions: np.ndarray) -> list[Collision]:
        """Return the nearest checked pair at each of ``positions`` (N, J)."""
        positions = np.atleast_2d(np.asarray(positions, float))
        turns, origins, first, last = self._place(positions)
        bounds = self._bounds(turns, origins, first, last)
        moved = np.zeros(first.shape[:2])
        exact = ExactDistances(self._functions, self._pairs, turns, origins, moved)
        found = []
        for n in range(len(positions)):
            best, best_pair = np.inf, -1
            for pair in np.argsort(bounds[n]).tolist():
                if bounds[n, pair] >= best:
                    break
                distance = exact.at(n, pair)
                if distance < best:
                    best, best_pair = distance, pair
            if best_pair >= 0:
                found.append(self._collision(n, best_pair, best))
        return found

    @property
    def checked(self) -> list[tuple[str, str]]:
        """The pairs of links, or of a link and a box, that are checked; each pair once."""
        return list(dict.fromkeys(self._links(pair) for pair in range(len(self._pairs))))

    # ---- which pairs are checked ----

    def _candidate_pairs(
        self, is_arm: list[bool], allowed: Sequence[tuple[str, str]]
    ) -> np.ndarray:
        """Return the pairs of shapes (P, 2) to check, and note in :attr:`allowed` which are not."""
        known = {shape.link for shape in self.shapes}
        for link in (name for pair in allowed for name in pair):
            if link not in known:
                raise ContractError(
                    f"collision.allowed: {link!r} has no shape; name some of"
                    f" {', '.join(sorted(known))}"
                )
        given = {frozenset(pair) for pair in allowed}
        arm_moves = self._tree.movers()[:, is_arm].any(axis=1)
        moves = self._tree.movers().any(axis=1)
        pairs = []
        for j, second in enumerate(self.shapes):
            for i, first in enumerate(self.shapes[:j]):
                path = self._tree.path(first.joint - 1, second.joint - 1)
                if not moves[path].any():
                    continue  # they never move relative to each other
                if frozenset((first.link, second.link)) in given:
                    self._allow(first, second, "allowed by the contract")
                elif len(path) == 1 and self._are_joined(i, j, path[0]):
                    self._allow(first, second, "joined by one joint")
                elif not arm_moves[path].any():
                    self._allow(first, second, "parts of one gripper")
                else:
                    pairs.append((i, j))
        return np.array(pairs, dtype=np.int64).reshape(-1, 2)

    def _are_joined(self, i: int, j: int, joint: int) -> bool:
        """Return whether ``joint`` joins the links of shapes ``i`` and ``j``.

        A box is joined to nothing. Of the links that no commanded joint moves, such as a base and
        the posts around it, only the one that carries the joint is joined by it.
        """
        if max(i, j) >= len(self.shapes) - self._boxes:
            return False
        still = [each for each in (self.shapes[i], self.shapes[j]) if self._is_still[each.joint]]
        return all(each.link == self._carriers[joint] for each in still)

    def _allow_touching(self, home: np.ndarray | None) -> None:
        """Remove the pairs that touch in the home pose.

        A pair with a box, or with a joint in between that is not commanded, is removed only if it
        touches in every pose: where that joint will be is not known yet.
        """
        random, lower, upper = np.random.default_rng(0), *self._limits
        poses = random.uniform(lower, upper, (_RANDOM_POSES, len(lower)))
        all_pairs = np.ones(len(self._pairs), dtype=bool)
        if home is None:
            zero = np.where((lower <= 0.0) & (upper >= 0.0), 0.0, 0.5 * (lower + upper))
            homes = [zero, 0.5 * (lower + upper), *poses[:_HOMES_TRIED]]
        else:
            homes = [np.clip(home, lower, upper)]
        touching = [self._always_touching(pose[None], all_pairs) for pose in homes]
        at_home = min(touching, key=np.count_nonzero)
        others = self._tree.sample_others(len(poses), random)
        everywhere = self._always_touching(poses, at_home, others)
        boxed = (self._pairs >= len(self.shapes) - self._boxes).any(axis=1)
        remove = at_home & (everywhere | ~(boxed | self._passes_other_joint()))
        self.touching_at_home = [
            self._links(pair) for pair in np.flatnonzero(at_home & ~remove).tolist()
        ]
        for pair in np.flatnonzero(remove):
            why = "touch in every pose" if everywhere[pair] else "touch in the home pose"
            self._allow(*(self.shapes[n] for n in self._pairs[pair]), why)
        self._pairs = np.ascontiguousarray(self._pairs[~remove])
        kept = zip(self._functions, remove, strict=True)
        self._functions = [function for function, out in kept if not out]

    def _passes_other_joint(self) -> np.ndarray:
        """Return (P,): true for the pairs with a joint in between that is not commanded."""
        paths = (self._tree.path(*self._joints[pair].tolist()) for pair in self._pairs)
        return np.array([bool(self._tree.drivers(path)) for path in paths], dtype=bool)

    def _always_touching(
        self, poses: np.ndarray, among: np.ndarray, others: np.ndarray | None = None
    ) -> np.ndarray:
        """Return (P,): true for the pairs ``among`` (P,) that touch at every pose (N, J).

        Args:
            others: see :meth:`JointTree.angles`.
        """
        turns, origins, first, last = self._place(poses, others)
        touch = among & (self._bounds(turns, origins, first, last) <= self.margin).all(axis=0)
        still = np.zeros(first.shape[:2])
        exact = ExactDistances(self._functions, self._pairs, turns, origins, still)
        for pair in np.flatnonzero(touch):
            touch[pair] = all(exact.at(n, pair) <= self.margin for n in range(len(poses)))
        return touch

    def _allow(self, first: LinkShape, second: LinkShape, why: str) -> None:
        if first.link != second.link:
            self.allowed.setdefault((first.link, second.link), why)

    # ---- shapes and their poses ----

    def _set_arrays(self) -> None:
        shapes = self.shapes
        self._joints = np.array([shape.joint - 1 for shape in shapes], dtype=np.int64)
        self._rotations = np.array([shape.placement.rotation for shape in shapes])
        self._offsets = np.array([shape.placement.translation for shape in shapes])
        inverse = [shape.placement.inverse() for shape in shapes]
        capsules = [shape.capsule for shape in shapes]
        self._starts = np.array([p.act(c.start) for p, c in zip(inverse, capsules, strict=True)])
        self._ends = np.array([p.act(c.end) for p, c in zip(inverse, capsules, strict=True)])
        self._radii = np.array([capsule.radius for capsule in capsules])
        boxes = [_local_box(shape.geometry) for shape in shapes]
        self._box_centres = np.array([centre for centre, _ in boxes])
        self._box_halves = np.array([half for _, half in boxes])

    def _place(
        self, positions: np.ndarray, others: np.ndarray | None = None
    ) -> tuple[np.ndarray, ...]:
        """Return the poses of all G shapes and the ends of their capsules at ``positions`` (N, J).

        Rotations (N, G, 3, 3), then offsets, first ends and last ends (N, G, 3) [m].
        """
        tree = self._tree
        turns, origins = place_shapes(
            tree.angles(positions, others),
            tree.parents,
            tree.rotations,
            tree.offsets,
            tree.axes,
            tree.slides,
            self._joints,
            self._rotations,
            self._offsets,
        )
        return turns, origins, *place_capsules(turns, origins, self._starts, self._ends)

    def _bounds(self, turns, origins, first, last) -> np.ndarray:
        """Return lower bounds (N, P) of the distances of all pairs [m], from :meth:`_place`."""
        boxes = self._box_centres, self._box_halves
        return all_bounds(self._pairs, turns, origins, first, last, self._radii, *boxes)

    def _collision(self, index: int, pair: int, distance: float) -> Collision:
        return Collision(index, *self._links(pair), float(distance))

    def _links(self, pair: int) -> tuple[str, str]:
        i, j = self._pairs[pair]
        return self.shapes[i].link, self.shapes[j].link


def _home_of(arm: Arm) -> list[float] | None:
    """Return the home pose of an arm with an open gripper; None where the contract has none."""
    if arm.home is None:
        return None
    return [*arm.home, *(arm.gripper.to_joints(1.0) if arm.gripper else [])]


def _local_box(geometry: coal.CollisionGeometry) -> tuple[np.ndarray, np.ndarray]:
    """Return centre (3,) and half sides (3,) [m] of a box around a shape, in the shape's frame."""
    geometry.computeLocalAABB()
    box = geometry.aabb_local
    return 0.5 * (box.min_ + box.max_), 0.5 * (box.max_ - box.min_)
