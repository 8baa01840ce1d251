"""Check the inputs: cameras and joint states."""

from __future__ import annotations

import difflib
import itertools
import statistics
from collections.abc import Iterator

from sf_bringup.doctor.findings import Finding, failed, passed, warned
from sf_bringup.doctor.seen import Seen, Stream
from sf_policy_node.contract import Camera, Contract

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
JOINT_STATE = "sensor_msgs/msg/JointState"
_FUTURE_S = 0.02  # a stamp further ahead than this is another clock
_SLOW, _TOO_SLOW = 0.9, 0.5  # shares of the contract's rate
_OUTSIDE = 0.02  # rad or m beyond a limit that is tolerated
_SYNCHRONISE = "synchronise the clocks (chrony, PTP), or let the driver stamp with this machine's"


def check_cameras(contract: Contract, seen: Seen) -> Iterator[Finding]:
    """Yield findings on type, rate, size, stamps and frame of every camera, and on their skew."""
    for camera in contract.cameras:
        yield from _camera(camera, contract, seen)
    yield from _skew(contract, seen)


def check_joint_states(contract: Contract, seen: Seen) -> Iterator[Finding]:
    """Yield findings on topic, names, values, rates and stamps of the joint states."""
    topic, subject = seen.resolve(contract.topics.joint_states), "joint states"
    stream = seen.stream(topic)
    if problem := _absent(topic, subject, stream, seen, JOINT_STATE, "topics.joint_states"):
        yield problem
        return
    joints, wanted = seen.joints, contract.command_joints
    if joints.mismatched:
        names, values = joints.mismatched
        seen_text = f"{names} names, {values} positions in one message on {topic}"
        yield failed(subject, seen_text, "fix the driver: every name needs a position")
    missing = [name for name in wanted if name not in joints.positions]
    if missing:
        came = ", ".join(sorted(joints.positions)) or "no names"
        cure = _rename(missing, sorted(joints.positions))
        yield failed(subject, f"{topic} lacks {', '.join(missing)}; it has {came}", cure)
    else:
        yield passed(subject, f"{len(wanted)} joints on {topic}, {stream.rate_hz:.0f} Hz")
    if bad := sorted(joints.not_finite & set(wanted)):
        cure = "fix the driver or the encoder"
        yield failed(subject, f"position of {', '.join(bad)} is not finite", cure)
    if doubled := [name for name in wanted if len(joints.sources.get(name, ())) > 1]:
        count = len(set().union(*(joints.sources[name] for name in doubled)))
        cure = "stop all but one of them, or give the others another topic"
        text = f"{count} publishers report {', '.join(doubled)} on {topic}"
        yield failed(subject, f"{text} ({', '.join(sorted(stream.publishers))} publish it)", cure)
    yield from _positions(contract, seen)
    yield from _joint_rates(contract, seen)
    yield from _stamps(
        subject, topic, stream, contract.budgets.joint_state_age_s, "joint_state_age_s"
    )


def _camera(camera: Camera, contract: Contract, seen: Seen) -> Iterator[Finding]:
    topic, subject = seen.resolve(camera.topic), f"camera {camera.name}"
    wanted = COMPRESSED if camera.transport == "compressed" else IMAGE
    stream = seen.stream(topic)
    if problem := _absent(topic, subject, stream, seen, wanted, f"cameras.{camera.name}.topic"):
        yield problem
        return
    rate, due = stream.rate_hz, camera.rate_hz
    text = f"{rate:.1f} Hz on {topic}, the contract says {due:g}"
    cure = (
        "start the simulation with a smaller real_time_factor, such as 0.5: this machine renders"
        " too slowly"
        if seen.is_simulated
        else f"raise the driver's frame rate, or set cameras.{camera.name}.rate_hz; look at USB"
        " bandwidth"
    )
    if rate < _TOO_SLOW * due:
        yield failed(subject, text, cure)
    elif rate < _SLOW * due:
        yield warned(subject, text, cure)
    else:
        yield passed(subject, text)
    size = (camera.width, camera.height)
    if wrong := stream.sizes - {size}:
        came = ", ".join(f"{width} x {height}" for width, height in sorted(wrong))
        cure = (
            f"set the driver to {size[0]} x {size[1]}, or width and height of cameras.{camera.name}"
        )
        yield failed(subject, f"images are {came}, the contract says {size[0]} x {size[1]}", cure)
    if stream.frames and camera.frame not in stream.frames:
        frames = ", ".join(sorted(stream.frames)) or "empty"
        cure = f"set cameras.{camera.name}.frame, or the driver's frame"
        yield warned(subject, f"frame_id is {frames}, the contract says {camera.frame}", cure)
    budget = contract.budgets.observation_age_s
    yield from _stamps(subject, topic, stream, budget, "observation_age_s")


def _absent(
    topic: str, subject: str, stream: Stream, seen: Seen, wanted: str, key: str
) -> Finding | None:
    """Return a finding if a topic has no usable messages; None if it has."""
    if not stream.publishers:
        others = sorted(name for name, kinds in seen.topics.items() if wanted in kinds)
        near = f"; {wanted} is published on {', '.join(others[:4])}" if others else ""
        cure = f"start its driver, or set {key}" + (f" to {others[0]}" if len(others) == 1 else "")
        return failed(subject, f"no node publishes {topic}{near}", cure)
    if wanted not in stream.types:
        kinds = ", ".join(sorted(stream.types))
        cure = f"set {key} to a topic of that type"
        if {wanted, *stream.types} == {IMAGE, COMPRESSED}:
            transport = "compressed" if COMPRESSED in stream.types else "raw"
            cure = (
                f"set {key.rpartition('.')[0]}.transport: {transport}, or {key} to the other topic"
            )
        return failed(subject, f"{topic} carries {kinds}, the contract needs {wanted}", cure)
    if stream.qos_faults:
        return failed(subject, f"{topic}: {'; '.join(stream.qos_faults)}", "change its QoS")
    if not stream.received:
        cure = "check the driver; a firewall can stop data but not discovery"
        return failed(
            subject, f"{topic} has a publisher, but no message in {seen.seconds:.0f} s", cure
        )
    return None


def _stamps(subject: str, topic: str, stream: Stream, budget: float, key: str) -> Iterator[Finding]:
    if any(stamp == 0.0 for stamp in stream.stamps):
        yield failed(subject, f"{topic} has no time stamp", "let the driver fill header.stamp")
        return
    if not stream.ages:
        return
    age, newest = statistics.median(stream.ages), min(stream.ages)
    if newest < -_FUTURE_S:
        yield failed(subject, f"stamped {-newest:.3f} s in the future", _SYNCHRONISE)
    elif age > budget:
        cure = (
            f"{_SYNCHRONISE}; or reduce the latency of driver and network, or raise budgets.{key}"
        )
        yield failed(subject, f"{age:.3f} s old on arrival, budgets.{key} is {budget:g}", cure)
    else:
        yield passed(subject, f"{1e3 * age:.0f} ms old on arrival")
    if any(later < earlier for earlier, later in itertools.pairwise(stream.stamps)):
        yield warned(
            subject, "stamps decrease", "let one driver alone publish the topic; check its clock"
        )


def _skew(contract: Contract, seen: Seen) -> Iterator[Finding]:
    stamps = [
        [stamp for stamp in seen.stream(camera.topic).stamps if stamp]
        for camera in contract.cameras
    ]
    if len(stamps) < 2 or not all(stamps):
        return
    gaps = [
        max(min(abs(stamp - each) for each in other) for other in stamps[1:]) for stamp in stamps[0]
    ]
    skew, budget = statistics.median(gaps), contract.budgets.camera_skew_s
    text = f"{1e3 * skew:.0f} ms apart, budgets.camera_skew_s is {1e3 * budget:g} ms"
    if skew > budget:
        yield failed(
            "camera skew", text, "trigger the cameras together, raise their rate, or the budget"
        )
    else:
        yield passed("camera skew", text)


def _rename(missing: list[str], present: list[str]) -> str:
    for name in present:
        prefix = name.removesuffix(missing[0])
        if prefix != name and all(prefix + each in present for each in missing):
            return (
                f"the driver puts {prefix!r} before each name: use these names in the contract and"
                " its URDF"
            )
    near = difflib.get_close_matches(missing[0], present, 1)
    hint = f" (is {missing[0]} called {near[0]}?)" if near else ""
    return f"name the joints in the contract as the driver does{hint}, or start the missing driver"


def _positions(contract: Contract, seen: Seen) -> Iterator[Finding]:
    limits = {
        joint.name: (joint.lower, joint.upper, joint.unit)
        for arm in contract.arms.values()
        for joint in arm.joints
    }
    outside = []
    for name, (low, high, unit) in limits.items():
        value = seen.joints.positions.get(name)
        if value is not None and not low - _OUTSIDE <= value <= high + _OUTSIDE:
            outside.append(f"{name} at {value:.2f} {unit} (limits {low:g} to {high:g})")
    if outside:
        cure = (
            "move the arm inside its limits by hand; if it is inside, driver and URDF differ in"
            " zero position or unit (degrees?)"
        )
        yield failed("joint positions", "; ".join(outside), cure)
    elif all(name in seen.joints.positions for name in limits):
        yield passed("joint positions", "inside the contract's limits")


def _joint_rates(contract: Contract, seen: Seen) -> Iterator[Finding]:
    budget, slow = contract.budgets.joint_state_age_s, []
    for name in contract.command_joints:
        times = seen.joints.times.get(name, [])
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        if gaps and statistics.median(gaps) > budget:
            slow.append(f"{name} every {statistics.median(gaps):.2f} s")
    if slow:
        cure = "raise the rate of that driver, or budgets.joint_state_age_s"
        yield failed(
            "joint states", f"{'; '.join(slow)}: budgets.joint_state_age_s is {budget:g}", cure
        )
