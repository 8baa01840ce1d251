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

_LITTLE_DISK_GB, _NO_DISK_GB = 20.0, 2.0


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
    touching = [pair for pair, why in model.allowed.items() if why.startswith("touch")]
    if touching:
        pairs = ", ".join(f"{first} and {second}" for first, second in touching)
        cure = "these pairs touch in every random pose; give the links tighter collision shapes"
        yield warned("collision", f"not checked against each other: {pairs}", cure)
    else:
        yield passed("collision", f"{len(model.checked)} pairs of links are checked")


def check_machine(contract: Contract, seen: Seen) -> Iterator[Finding]:
    """Yield clock, disk, GPU and versions."""
    if seen.has_clock and seen.is_simulated:
        yield passed("clock", "simulated (/clock), as the robot is")
    elif seen.has_clock:
        cure = "stop the node that publishes /clock; give sim:=true if the robot is simulated"
        yield warned("clock", "time is simulated (/clock)", cure)
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
    else:
        cure = "a large policy needs one: install its driver and a CUDA build of torch"
        yield warned("GPU", "none that torch can use", cure)
    yield passed("versions", ", ".join(f"{name} {each}" for name, each in seen.versions.items()))
