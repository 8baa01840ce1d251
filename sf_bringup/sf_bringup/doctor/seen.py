"""Hold what was seen of a running graph as plain data, so that the checks need no ROS."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

_LIST = "list_controllers"  # service of a controller_manager


@dataclass
class Stream:
    """Messages, publishers and subscribers of one topic.

    Times are seconds: ``received`` on the doctor's clock (simulated where there is a ``/clock``),
    ``stamps`` of the headers (0: without a stamp). ``types`` are those of all publishers.
    ``qos_faults``: a sentence for each endpoint that is not connected because of its QoS.
    """

    types: set[str] = field(default_factory=set)
    publishers: list[str] = field(default_factory=list)
    subscribers: list[str] = field(default_factory=list)
    qos_faults: list[str] = field(default_factory=list)
    received: list[float] = field(default_factory=list)
    stamps: list[float] = field(default_factory=list)
    frames: set[str] = field(default_factory=set)
    sizes: set[tuple[int, int]] = field(default_factory=set)

    @property
    def rate_hz(self) -> float:
        """Return messages per second, 0 for fewer than two."""
        seconds = self.received[-1] - self.received[0] if len(self.received) > 1 else 0.0
        return (len(self.received) - 1) / seconds if seconds > 0.0 else 0.0

    @property
    def ages(self) -> list[float]:
        """Return the times from stamp to receipt [s] of stamped messages."""
        return [now - stamp for now, stamp in zip(self.received, self.stamps, strict=True) if stamp]


@dataclass
class Joints:
    """Joint states: the newest position and the times of every joint, and faults of messages."""

    positions: dict[str, float] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=dict)
    mismatched: tuple[int, int] | None = None  # names, positions
    not_finite: set[str] = field(default_factory=set)
    # By joint: the publishers of its messages; one of them is empty where rclpy reports none.
    sources: dict[str, set[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Controller:
    """A controller of ros2_control, as the controller_manager lists it; ``type`` is its plugin."""

    name: str
    type: str
    state: str
    joints: tuple[str, ...]


@dataclass
class Seen:
    """The running graph and the machine.

    ``controllers`` is ``None`` without a controller_manager; ``controllers_unread`` says why its
    list could not be read. ``streams`` are by the topic's full name, ``nodes`` the full names of
    those in the namespace.
    """

    namespace: str = ""
    streams: dict[str, Stream] = field(default_factory=dict)
    joints: Joints = field(default_factory=Joints)
    nodes: list[str] = field(default_factory=list)
    topics: dict[str, set[str]] = field(default_factory=dict)  # all topics with a publisher: types
    services: set[str] = field(default_factory=set)
    actions: dict[str, set[str]] = field(default_factory=dict)  # of grippers: types of the servers
    controllers: list[Controller] | None = None
    controllers_unread: str = ""
    controller_refusal: str = ""  # why the controller would not follow, by its parameters
    controller_remarks: list[str] = field(default_factory=list)
    has_clock: bool = False
    is_simulated: bool = False  # the user started the robot in simulation
    seconds: float = 0.0
    free_disk_gb: float = 0.0
    disk: str = ""
    gpu: str = ""  # the name of the one that torch uses; empty: none
    gpu_devices: list[str] = field(default_factory=list)  # device files of GPUs on this machine
    versions: dict[str, str] = field(default_factory=dict)

    def stream(self, topic: str) -> Stream:
        """Return the stream of a topic of the contract."""
        return self.streams.get(self.resolve(topic), Stream())

    def controller_manager(self, command_topics: Iterable[str]) -> str | None:
        """Return the service that lists the controllers behind the commands, None if there is none.

        A controller is in the namespace of its controller_manager. So the namespaces of the
        commands come first, then that of the nodes, then the namespaces around these. The service
        of another namespace belongs to another robot.
        """
        places = [self.resolve(topic).rsplit("/", 2)[0] for topic in command_topics]
        places.append(f"/{self.namespace.strip('/')}".rstrip("/"))
        while places:
            for place in places:
                for service in sorted(self.services):
                    if service.rsplit("/", 2)[::2] == [place, _LIST]:
                        return service
            places = [place.rpartition("/")[0] for place in places if place]
        return None

    def resolve(self, topic: str) -> str:
        """Return a topic of the contract as the graph names it: relative ones in the namespace."""
        if topic.startswith("/") or not self.namespace.strip("/"):
            return "/" + topic.lstrip("/")
        return f"/{self.namespace.strip('/')}/{topic}"
