"""Compiled loops of the collision check: compute the poses of all shapes and which pairs may touch.

Legend: N samples, J joints of the URDF, G shapes, P pairs; ``turns`` (N, G, 3, 3) and ``origins``
(N, G, 3) [m] are rotation and position of every shape in the model's root. Capsule and box of a
shape enclose it. So the distance of two capsules or of two boxes is a lower bound of the distance
of their shapes.
"""

from __future__ import annotations

import math

import numba
import numpy as np


@numba.njit(cache=True)
def _product(a, b, out):  # pragma: no cover - compiled
    for i in range(3):
        for j in range(3):
            out[i, j] = a[i, 0] * b[0, j] + a[i, 1] * b[1, j] + a[i, 2] * b[2, j]


@numba.njit(cache=True)
def _act(rotation, offset, point, out):  # pragma: no cover - compiled
    for i in range(3):
        out[i] = (
            offset[i]
            + rotation[i, 0] * point[0]
            + rotation[i, 1] * point[1]
            + rotation[i, 2] * point[2]
        )


@numba.njit(cache=True)
def _copy(source, out):  # pragma: no cover - compiled
    for i in range(3):
        for j in range(3):
            out[i, j] = source[i, j]


@numba.njit(cache=True)
def place_shapes(
    angles, parents, rotations, offsets, axes, slides, shape_joints, shape_rotations, shape_offsets
):  # pragma: no cover - compiled
    """Compute the poses of all shapes: rotations (N, G, 3, 3) and positions (N, G, 3) in the root.

    Args:
        angles: (N, J) position of every joint [rad or m].
        parents: (J,) index of the joint before each joint, lower than its own; -1: the root.
        rotations, offsets: (J, 3, 3), (J, 3) pose of each joint in its parent at position 0.
        axes: (J, 3) unit vectors. slides: (J,) True for a prismatic joint.
        shape_joints: (G,) joint that moves each shape; -1: none.
        shape_rotations, shape_offsets: (G, 3, 3), (G, 3) pose of each shape in its joint.

    Rotations about an axis are by Rodrigues' formula.
    """
    count, joints, shapes = angles.shape[0], angles.shape[1], len(shape_joints)
    turns, origins = np.empty((count, shapes, 3, 3)), np.empty((count, shapes, 3))
    turn, place = np.empty((joints, 3, 3)), np.empty((joints, 3))
    first, about, root = np.empty((3, 3)), np.empty((3, 3)), np.eye(3)
    origin, along = np.zeros(3), np.empty(3)
    for n in range(count):
        for j in range(joints):
            q = angles[n, j]
            x, y, z = axes[j, 0], axes[j, 1], axes[j, 2]
            if parents[j] < 0:
                before, at = root, origin
            else:
                before, at = turn[parents[j]], place[parents[j]]
            _product(before, rotations[j], first)
            _act(before, at, offsets[j], place[j])
            if slides[j]:
                along[0], along[1], along[2] = x * q, y * q, z * q
                at = place[j]  # each row of the offset is read before it is written
                _act(first, at, along, at)
                _copy(first, turn[j])
            else:
                s, c = math.sin(q), math.cos(q)
                t = 1.0 - c
                about[0, 0], about[0, 1], about[0, 2] = (
                    c + x * x * t,
                    x * y * t - z * s,
                    x * z * t + y * s,
                )
                about[1, 0], about[1, 1], about[1, 2] = (
                    y * x * t + z * s,
                    c + y * y * t,
                    y * z * t - x * s,
                )
                about[2, 0], about[2, 1], about[2, 2] = (
                    z * x * t - y * s,
                    z * y * t + x * s,
                    c + z * z * t,
                )
                _product(first, about, turn[j])
        for g in range(shapes):
            j = shape_joints[g]
            if j < 0:
                _copy(shape_rotations[g], turns[n, g])
                for i in range(3):
                    origins[n, g, i] = shape_offsets[g, i]
            else:
                _product(turn[j], shape_rotations[g], turns[n, g])
                _act(turn[j], place[j], shape_offsets[g], origins[n, g])
    return turns, origins


@numba.njit(cache=True)
def place_capsules(turns, origins, starts, ends):  # pragma: no cover - compiled
    """Return both ends (N, G, 3) of all capsules in the root, from those in the shapes' frames."""
    count, shapes = origins.shape[0], origins.shape[1]
    first, last = np.empty((count, shapes, 3)), np.empty((count, shapes, 3))
    for n in range(count):
        for g in range(shapes):
            _act(turns[n, g], origins[n, g], starts[g], first[n, g])
            _act(turns[n, g], origins[n, g], ends[g], last[n, g])
    return first, last


@numba.njit(cache=True)
def displacements(turns, first, last, radii):  # pragma: no cover - compiled
    """Return (N, G) upper bounds of how far any point of a shape moves since the last sample [m].

    They are 0 for the first sample. A point of a capsule is a point of its segment plus an offset
    no longer than its radius r. The segment moves by at most the larger displacement of its ends.
    The offset moves by at most r |dR|_F / sqrt(2), with the rotation difference dR (3, 3), whose
    spectral norm is |dR|_F / sqrt(2).
    """
    count, shapes = first.shape[0], first.shape[1]
    moved = np.zeros((count, shapes))
    for n in range(1, count):
        for g in range(shapes):
            a = b = turned = 0.0
            for i in range(3):
                a += (first[n, g, i] - first[n - 1, g, i]) ** 2
                b += (last[n, g, i] - last[n - 1, g, i]) ** 2
                for k in range(3):
                    turned += (turns[n, g, i, k] - turns[n - 1, g, i, k]) ** 2
            moved[n, g] = math.sqrt(max(a, b)) + radii[g] * math.sqrt(0.5 * turned)
    return moved


@numba.njit(cache=True)
def _clamp(value):  # pragma: no cover - compiled
    return min(max(value, 0.0), 1.0)


@numba.njit(cache=True)
def segment_distance(p, u, q, v):  # pragma: no cover - compiled
    """Return the distance of the segments p-u and q-v [m].

    Source: Ericson, "Real-Time Collision Detection", 2005, section 5.1.9, whose letters are used:
    a and e are the squared lengths, s and t the parameters (0 to 1) of the nearest points.
    """
    a = e = f = c = b = 0.0
    for i in range(3):
        d1, d2, r = u[i] - p[i], v[i] - q[i], p[i] - q[i]
        a += d1 * d1
        e += d2 * d2
        f += d2 * r
        c += d1 * r
        b += d1 * d2
    if a <= 1e-18 and e <= 1e-18:
        s = t = 0.0
    elif a <= 1e-18:
        s, t = 0.0, _clamp(f / e)
    elif e <= 1e-18:
        s, t = _clamp(-c / a), 0.0
    else:
        denominator = a * e - b * b
        s = _clamp((b * f - c * e) / denominator) if denominator > 1e-15 * a * e else 0.0
        t = (b * s + f) / e
        if t < 0.0:
            s, t = _clamp(-c / a), 0.0
        elif t > 1.0:
            s, t = _clamp((b - c) / a), 1.0
    total = 0.0
    for i in range(3):
        gap = p[i] + s * (u[i] - p[i]) - q[i] - t * (v[i] - q[i])
        total += gap * gap
    return math.sqrt(total)


@numba.njit(cache=True)
def _box_gap(n, i, j, turns, origins, centres, halves):  # pragma: no cover - compiled
    """Return a lower bound of the distance of two boxes [m].

    It is the distance of box ``i`` from the extent of box ``j`` along the axes of ``i``.
    """
    total = 0.0
    for k in range(3):
        offset, extent = -centres[i, k], halves[i, k]
        for m in range(3):
            # Element (k, m) of the rotation from box j to box i.
            turned = 0.0
            for r in range(3):
                turned += turns[n, i, r, k] * turns[n, j, r, m]
            offset += turned * centres[j, m]
            extent += abs(turned) * halves[j, m]
        for r in range(3):
            offset += turns[n, i, r, k] * (origins[n, j, r] - origins[n, i, r])
        gap = abs(offset) - extent
        if gap > 0.0:
            total += gap * gap
    return math.sqrt(total)


@numba.njit(cache=True)
def pair_bound(
    n, i, j, turns, origins, first, last, radii, centres, halves, enough
):  # pragma: no cover - compiled
    """Return a lower bound of the distance of shapes ``i`` and ``j`` at sample ``n`` [m].

    It comes from their capsules and, where that is not more than ``enough`` [m], also from their
    boxes: ``centres`` and half sides ``halves`` (G, 3) in the frames of the shapes.
    """
    bound = segment_distance(first[n, i], last[n, i], first[n, j], last[n, j])
    bound -= radii[i] + radii[j]
    if bound <= enough:
        bound = max(bound, _box_gap(n, i, j, turns, origins, centres, halves))
        if bound <= enough:
            bound = max(bound, _box_gap(n, j, i, turns, origins, centres, halves))
    return bound


@numba.njit(cache=True)
def all_bounds(
    pairs, turns, origins, first, last, radii, centres, halves
):  # pragma: no cover - compiled
    """Return lower bounds (N, P) of the distances of all ``pairs`` (P, 2) [m]."""
    bounds = np.empty((first.shape[0], len(pairs)))
    for n in range(first.shape[0]):
        for k in range(len(pairs)):
            bounds[n, k] = pair_bound(
                n,
                pairs[k, 0],
                pairs[k, 1],
                turns,
                origins,
                first,
                last,
                radii,
                centres,
                halves,
                np.inf,
            )
    return bounds


@numba.njit(cache=True)
def near_pairs(
    pairs, margin, turns, origins, first, last, radii, centres, halves, moved
):  # pragma: no cover - compiled
    """Return the samples and pairs (K, 2) that may be nearer than ``margin`` [m], in the order of
    the samples.

    A pair whose bound is above the margin is skipped until its shapes have moved by the difference
    (``moved`` (N, G), see :func:`displacements`).
    """
    count = first.shape[0]
    found = np.empty((count * len(pairs), 2), dtype=np.int64)
    room = np.full(len(pairs), -1.0)
    size = 0
    for n in range(count):
        for k in range(len(pairs)):
            i, j = pairs[k, 0], pairs[k, 1]
            room[k] -= moved[n, i] + moved[n, j]
            if room[k] > 0.0:
                continue
            bound = pair_bound(n, i, j, turns, origins, first, last, radii, centres, halves, margin)
            room[k] = bound - margin
            if room[k] <= 0.0:
                found[size, 0], found[size, 1] = n, k
                size += 1
    return found[:size]
