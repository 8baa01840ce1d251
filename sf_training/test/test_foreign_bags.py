"""Tests of bags of other recorders, read through the contract's ``bags`` in every encoding."""

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from synthetic_episodes import HEIGHT, WIDTH, tiny_contract

from sf_policy_node.contract import ContractError
from sf_policy_node.vla.preprocessing import prepare
from sf_training.data.dataset import load_dataset
from sf_training.data.episode_reader import BagError, EpisodeReader
from sf_training.recording import messages
from sf_training.training.training_set import load_training_set

FIRST, SECOND, DEPTH = "/front/color/image_raw", "/hand/image/compressed", "/front/depth"
MAPPING = {
    "topics": {
        FIRST: "/scene_camera/image_raw",
        DEPTH: "/scene_camera/depth/image_raw",
        SECOND: "/wrist_camera/image_raw",
        "/franka/joint_states": "/joint_states",
        "/gripper/joint_states": "/joint_states",
    },
    "joints": (
        {f"panda_joint{n}": f"joint{n}" for n in range(1, 7)}
        | {"panda_finger_joint1": "gripper_joint"}
    ),
    "commands": "/leader/joint_states",
    "instruction": "pick the cup",
}
ENCODINGS = ("rgb8", "bgr8", "mono8", "bayer_rggb8", "bgra8", "yuv422_yuy2")
RAMP = (
    np.linspace(40, 200, WIDTH).astype(np.uint8)[None].repeat(HEIGHT, 0)
)  # grey: the same in all encodings


def foreign_contract(gripper: str, **changes):
    mapping = MAPPING | {"joints": {**MAPPING["joints"], "panda_finger_joint1": gripper}} | changes
    return tiny_contract(bags=mapping)


@pytest.fixture(scope="module")
def contract():
    return foreign_contract(tiny_contract().gripper.joint)


def encoded(encoding: str) -> np.ndarray:
    """Return the ramp in an encoding, (H, W) or (H, W, C)."""
    if encoding in ("mono8", "bayer_rggb8"):
        return RAMP
    if encoding == "yuv422_yuy2":  # brightness from 16 to 235
        return np.stack(
            [(16 + RAMP * (219 / 255)).round().astype(np.uint8), np.full_like(RAMP, 128)], -1
        )
    return np.repeat(RAMP[..., None], 4 if encoding.endswith("a8") else 3, -1)


class ForeignBag:
    """A bag that rosbags writes, with topics and joints of another robot."""

    def __init__(self, path, **options):
        self.store = messages.typestore()
        self.writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
        if options:
            self.writer.set_compression(options["mode"], options["fmt"])
        self.connections = {}

    def __enter__(self):
        self.writer.open()
        return self

    def __exit__(self, *_):
        self.writer.close()

    def write(self, topic, kind, stamp, *fields, header=True):
        types = self.store.types
        at = messages.nanoseconds(stamp)
        if topic not in self.connections:
            self.connections[topic] = self.writer.add_connection(topic, kind, typestore=self.store)
        if header:
            fields = (
                types["std_msgs/msg/Header"](
                    types["builtin_interfaces/msg/Time"](*divmod(at, 10**9)), "f"
                ),
                *fields,
            )
        self.writer.write(
            self.connections[topic], at, self.store.serialize_cdr(types[kind](*fields), kind)
        )

    def image(self, topic, stamp, encoding, pixels):
        data = np.ascontiguousarray(pixels).reshape(-1).view(np.uint8)
        self.write(
            topic,
            messages.IMAGE,
            stamp,
            pixels.shape[0],
            pixels.shape[1],
            encoding,
            0,
            data.size // pixels.shape[0],
            data,
        )

    def compressed(self, topic, stamp, kind, pixels):
        data = cv2.imencode(
            f".{kind}", pixels, [cv2.IMWRITE_JPEG_QUALITY, 98] if kind == "jpg" else []
        )[1].ravel()
        self.write(topic, messages.COMPRESSED_IMAGE, stamp, f"bgr8; {kind} compressed bgr8", data)

    def joints(self, topic, stamp, names, positions):
        none = np.zeros(0)
        self.write(
            topic,
            messages.JOINT_STATE,
            stamp,
            list(names),
            np.asarray(positions, float),
            none,
            none,
        )

    def second(self, frame, encoding="rgb8", depth=None, kind="png"):
        """Write 0.1 s of all topics."""
        stamp = 50.0 + 0.1 * frame
        self.image(FIRST, stamp, encoding, encoded(encoding))
        self.compressed(SECOND, stamp, kind, RAMP)
        if depth is not None:
            self.image(DEPTH, stamp, "16UC1" if depth.dtype == np.uint16 else "32FC1", depth)
        arm = [f"panda_joint{n}" for n in range(1, 7)]
        self.joints("/franka/joint_states", stamp, arm, np.full(6, 0.1 * frame))
        self.joints("/gripper/joint_states", stamp, ["panda_finger_joint1"], [0.02])
        return stamp, arm


def load(path, contract, **options):
    return load_dataset([path], contract, **{"size": 12, "workers": 1, "progress": False} | options)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_every_encoding_gives_the_same_image(tmp_path, contract, encoding, kind):
    with ForeignBag(tmp_path / "bag") as bag:
        for frame in range(3):
            stamp, arm = bag.second(frame, encoding, kind=kind)
            bag.joints(
                "/leader/joint_states",
                stamp,
                [*arm, "panda_finger_joint1"],
                [*np.full(6, 0.1 * frame + 0.05), 0.03],
            )
    data = load(tmp_path / "bag", contract)
    expected = prepare(
        dict.fromkeys(contract.camera_names, RAMP[..., None].repeat(3, -1)),
        contract.camera_names,
        12,
    )
    assert data.images.shape == (3, 2, 3, 12, 12)
    assert np.abs(data.images[:].astype(int) - expected).max() <= 2
    np.testing.assert_allclose(
        data.joint_positions, [[*np.full(6, 0.1 * n), 0.02] for n in range(3)], atol=1e-6
    )
    assert data.instructions == ["pick the cup"] and len(data.pair_frame) == 2


@pytest.mark.parametrize(
    "depth", [np.full((HEIGHT, WIDTH), 1500, np.uint16), np.full((HEIGHT, WIDTH), 1.5, np.float32)]
)
def test_depth_is_read_in_millimetres_and_in_metres(tmp_path, contract, depth):
    depth[:, : WIDTH // 2] = 0 if depth.dtype == np.uint16 else np.nan
    with ForeignBag(tmp_path / "bag") as bag:
        for frame in range(2):
            stamp, arm = bag.second(frame, depth=depth)
            bag.joints("/leader/joint_states", stamp, [*arm, "panda_finger_joint1"], np.zeros(7))
    seen = load(tmp_path / "bag", contract).depth[0, 0]
    assert np.isnan(seen[:, :6]).all() and (seen[:, 6:] == 1.5).all()


def test_commands_of_other_types_become_labels(tmp_path, contract):
    """Types are a trajectory, plain numbers, and none: then the measured motion is the label."""
    types = messages.typestore().types
    duration = types["builtin_interfaces/msg/Duration"](0, 0)
    for name in ("trajectory", "numbers", "measured"):
        with ForeignBag(tmp_path / name) as bag:
            for frame in range(12):
                stamp, arm = bag.second(frame)
                command = np.append(np.full(6, 0.1 * frame), 0.02)
                if name == "trajectory":
                    none = np.zeros(0)
                    point = types["trajectory_msgs/msg/JointTrajectoryPoint"](
                        command, none, none, none, duration
                    )
                    bag.write(
                        "/leader",
                        messages.JOINT_TRAJECTORY,
                        stamp,
                        [*arm, "panda_finger_joint1"],
                        [point],
                    )
                elif name == "numbers":
                    layout = types["std_msgs/msg/MultiArrayLayout"]([], 0)
                    bag.write("/leader", messages.NUMBERS, stamp, layout, command, header=False)
    joint_space = {
        "space": "joint_position",
        "names": [*(f"joint{n}" for n in range(1, 7)), "gripper"],
        "horizon": 4,
    }
    found = {}
    for name, commands in (
        ("trajectory", "/leader"),
        ("numbers", "/leader"),
        ("measured", "/franka/joint_states"),
    ):
        bags = contract.bags.model_dump() | {"commands": commands}
        found[name] = load(
            tmp_path / name, tiny_contract(bags=bags, action=joint_space)
        ).pair_target
    np.testing.assert_allclose(found["trajectory"][2, :, 0], [0.3, 0.4, 0.5, 0.6], atol=1e-6)
    np.testing.assert_array_equal(found["trajectory"], found["numbers"])
    np.testing.assert_array_equal(found["trajectory"], found["measured"])


def test_a_folder_of_bags_trains_with_the_robots_contract(tmp_path, contract):
    from rich.console import Console

    for name in "ab":
        with ForeignBag(tmp_path / name) as bag:
            for frame in range(12):
                stamp, arm = bag.second(frame)
                bag.joints(
                    "/leader/joint_states",
                    stamp,
                    [*arm, "panda_finger_joint1"],
                    np.full(7, 0.01 * frame),
                )
                bag.write("/instruction", messages.STRING, stamp, f"pick cup {name}", header=False)
    loose = tmp_path / "loose.mcap"
    loose.write_bytes(next((tmp_path / "a").glob("*.mcap")).read_bytes())
    used, data = load_training_set(
        tmp_path, (12, 16), Console(quiet=True), fit="letterbox", contract=contract
    )
    assert (
        used is contract
        and data.images.shape == (36, 2, 3, 12, 16)
        and data.texts == ("pick cup a", "pick cup b")
    )
    assert len(data.digest) == 16


def test_unreadable_bags_give_one_sentence(tmp_path, contract):
    with ForeignBag(tmp_path / "bag") as bag:
        stamp, arm = bag.second(0)
        bag.joints("/leader/joint_states", stamp, arm, np.zeros(6))
    with pytest.raises(
        BagError,
        match=(
            r"holds no episode record and no contract.*give the robot's contract with a section"
            r" bags"
        ),
    ):
        EpisodeReader(tmp_path / "bag")
    with pytest.raises(BagError, match=r"add to the contract a section bags .*data.md"):
        EpisodeReader(tmp_path / "bag", tiny_contract())
    topics = {theirs: ours for theirs, ours in MAPPING["topics"].items() if theirs != SECOND}
    wrong = foreign_contract(contract.gripper.joint, topics=topics)
    with pytest.raises(
        BagError,
        match=rf"no message on /wrist_camera/image_raw.*map one of the bag's topics .*{SECOND}",
    ):
        EpisodeReader(tmp_path / "bag", wrong)
    with pytest.raises(BagError, match=r"joint .* is never named in the messages"):
        load(tmp_path / "bag", foreign_contract(contract.gripper.joint, joints={}))
    with ForeignBag(tmp_path / "sizes") as bag:
        bag.image(FIRST, 50.0, "rgb8", np.zeros((7, 9, 3), np.uint8))
        stamp, arm = bag.second(1)
        bag.joints("/leader/joint_states", 50.0, [*arm, "panda_finger_joint1"], np.zeros(7))
        bag.joints("/leader/joint_states", 50.3, [*arm, "panda_finger_joint1"], np.zeros(7))
        bag.compressed(SECOND, 50.0, "png", RAMP)
        bag.joints("/franka/joint_states", 50.0, arm, np.zeros(6))
        bag.joints("/gripper/joint_states", 50.0, ["panda_finger_joint1"], [0.0])
    data = load(tmp_path / "sizes", contract)
    assert (
        len(data.images) == 1
        and "/scene_camera/image_raw at 0.00 s: image is 9x7, the contract says 32x24"
        in data.notes[0]
    )


def test_compressed_chunks_are_read(tmp_path, contract):
    with ForeignBag(
        tmp_path / "bag", mode=CompressionMode.STORAGE, fmt=CompressionFormat.ZSTD
    ) as bag:
        for frame in range(3):
            stamp, arm = bag.second(frame)
            bag.joints("/leader/joint_states", stamp, [*arm, "panda_finger_joint1"], np.zeros(7))
    assert len(load(tmp_path / "bag", contract).images) == 3


def test_a_mapping_to_unknown_names_is_refused(contract):
    with pytest.raises(
        ContractError, match=r"bags.topics: /front is not in this contract; name one of "
    ):
        tiny_contract(bags={"topics": {"/a": "/front"}})
    with pytest.raises(
        ContractError, match=r"bags.joints: elbow is not in this contract; name one of .*joint1"
    ):
        tiny_contract(bags={"joints": {"j1": "elbow"}})
    assert contract.hash == tiny_contract().hash, (
        "how bags are read is no part of what policies depend on"
    )
