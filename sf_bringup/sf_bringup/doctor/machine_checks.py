"""Check the contract against its URDF, the clock and the machine."""

from __future__ import annotations

from collections.abc import Iterator

from sf_bringup.doctor.findings import Finding, failed, passed, warned
from sf_bringup.doctor.seen import Seen
from sf_policy_node.contract import Contract, ContractError
from sf_policy_node.motion.arm.collision import CollisionModel
from sf_policy_node.motion.arm.kinematics import kinematics_of
from sf_policy_node.motion.arm.limits import require_limits
from sf_policy_node.motion.homing import check_rest_poses

_LITTLE_DISK_GB, _NO_DISK_GB = 8.0, 2.0


def check_contract(contract: Contract) -> Iterator[Finding]:
    """Yield whether contract and URDF fit, and which pairs of links are in no collision check."""
    try:
        kinematics_of(contract)
        require_limits(contract)
        check_rest_poses(contract)
        model = CollisionModel.of(contract)
    except ContractError as error:
        yield failed("contract", str(error), "change the contract or its URDF as the sentence says")
        return
    yield passed("contract", f"{contract.robot} fits its URDF, every limit is given")
    yield from _unchecked_pairs(model)


def _unchecked_pairs(model: CollisionModel) -> Iterator[Finding]:
    """Yield which pairs of links touch at home, or are left out of the collision check without the
    contract saying so.
    """
    touching: dict[str, list[str]] = {}
    for (first, second), reason in model.allowed.items():
        if reason.startswith("touch"):
            touching.setdefault(reason, []).append(f"{first} and {second}")
    for reason, pairs in touching.items():
        cure = (
            "choose a home pose in which they are apart, or list them in collision.allowed"
            if "home" in reason
            else "if they cannot meet, list them in collision.allowed; else use tighter shapes"
        )
        yield warned("collision", f"checked nowhere, they {reason}: {', '.join(pairs)}", cure)
    if model.touching_at_home:
        names = ", ".join(f"{first} and {second}" for first, second in model.touching_at_home)
        others = model.other_joints
        there = f" with {', '.join(others)} at 0" if others else ""
        yield warned(
            "collision",
            f"touch in the home pose{there}, and may only move apart from there: {names}",
            "choose a home pose or boxes with which they are apart, move these joints, or list"
            " pairs that may touch in collision.allowed",
        )
    if not touching and not model.touching_at_home:
        yield passed("collision", f"{len(model.checked)} pairs of links are checked")


def check_machine(contract: Contract, seen: Seen) -> Iterator[Finding]:
    """Yield clock, disk, GPU and versions."""
    clock = seen.resolve("clock")  # as remap_global_topics
    if seen.has_clock and seen.is_simulated:
        yield passed("clock", f"simulated ({clock}), as the robot is")
    elif seen.has_clock:
        cure = f"stop the node that publishes {clock}; give sim:=true if the robot is simulated"
        yield warned("clock", f"time is simulated ({clock})", cure)
    else:
        yield passed("clock", "this machine's")
    text = f"{seen.free_disk_gb:.0f} GB free at {seen.disk}"
    if seen.free_disk_gb < _NO_DISK_GB:
        yield failed("disk", text, "make room: a recording needs about 1 GB a minute")
    elif seen.free_disk_gb < _LITTLE_DISK_GB:
        yield warned("disk", text, "make room before you record")
    else:
        yield passed("disk", text)
    if seen.gpu:
        yield passed("GPU", seen.gpu)
    elif seen.gpu_devices:
        cure = "install its driver and a build of torch for it; until then policies run on the CPU"
        yield warned("GPU", f"torch cannot use {', '.join(seen.gpu_devices)}", cure)
    else:
        yield passed("GPU", "this machine has none: policies run on the CPU")
    yield passed("versions", ", ".join(f"{name} {each}" for name, each in seen.versions.items()))
