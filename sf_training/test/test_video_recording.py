"""Images recorded as H.264: what was seen comes back, in any order, and damage is named."""

import json
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
from foreign_recordings import (
    BEGIN,
    TOP,
    changed,
    contract,
    loaded,
    recording,
    write_bag,
)
from synthetic_episodes import joints_at, tiny_contract

from sf_training.data.episode_reader import EpisodeReader
from sf_training.lint.measure import measure_episode
from sf_training.lint.thresholds import Thresholds
from sf_training.recording import messages
from sf_training.recording.edit.command import trim
from sf_training.recording.session.recording_session import RecordingSession
from sf_training.recording.writer.video_encoder import VideoEncoder, video_encoders

WIDTH, HEIGHT, FRAMES = 64, 48, 36
SCENE = "/scene_camera/image_raw"


def video_contract(width=WIDTH):
    """The tiny robot with cameras of 64x48."""
    data = tiny_contract().model_dump(mode="json")
    for camera in data["cameras"]:
        camera.update(width=width, height=HEIGHT)
    return tiny_contract(cameras=data["cameras"])


ROBOT = video_contract()


def seen(frame, view=0):
    """(H, W, 3): a smooth image with a box whose place tells frame and camera."""
    pixels = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    pixels[..., 0] = np.linspace(40, 200, WIDTH)
    pixels[8 + 16 * view : 20 + 16 * view, 4 * (frame % 13) :][:, :12] = 230
    return pixels


def record(directory, codec, spoiled=()):
    """One episode; images of the frames ``spoiled`` have an unknown encoding."""
    session = RecordingSession(ROBOT, directory, "anna", settable_clock=True, image_codec=codec)
    session.start("pick", 0.0, 1000.0, 50.0)
    for sample in range(4 * FRAMES):
        now = 1000.0 + sample / 120
        frame = sample // 4
        stamp = round(now * 1e9)
        streams = {}
        if sample % 4 == 0:
            for view, camera in enumerate(ROBOT.cameras):
                data = bytes(messages.image(now, "c", seen(frame, view)))
                if frame in spoiled:
                    data = data.replace(b"rgb8", b"xyz8")
                streams["/" + camera.topic.lstrip("/")] = data
        for topic in ("/joint_states", "/teleop/joint_command"):
            state = messages.joint_state(now, ROBOT.command_joints, joints_at(now - 999.0))
            streams[topic] = bytes(state)
        for topic, data in streams.items():
            number = frame if topic.endswith("raw") else sample
            session.add(topic, data, stamp, None, number, topic.encode())
        session.tick(now, 50.0 + sample / 120)
    return session.settle(session.end("success", "", now)()).path


def test_what_was_seen_comes_back_in_any_order(tmp_path):
    raw, video = (record(tmp_path / codec, codec) for codec in ("raw", "h264"))
    reader = EpisodeReader(video)
    assert reader.topics[SCENE] == messages.VIDEO_PACKET
    for topic, frame, pixels in reader.frames({SCENE: range(FRAMES)}):
        known = seen(frame).astype(int)
        assert np.abs(pixels - known).mean() < 3 and topic == SCENE
        other = np.abs(pixels - seen(frame + 1).astype(int)).mean()
        assert other > 5, "the next image would be noticed"
    expected, found = loaded([raw], None), loaded([video], None)
    np.testing.assert_array_equal(found.pair_target, expected.pair_target)
    assert not found.notes and len(found.images) == len(expected.images) >= 10
    order = np.array([7, 2, 9, 2])
    np.testing.assert_array_equal(found.images[order], np.asarray(found.images)[order])
    assert np.abs(found.images[:].astype(int) - expected.images[:]).mean() < 3
    measure = measure_episode(video, Thresholds(), 4)
    assert not measure.broken and not measure.faults
    assert trim([str(video), "--begin", "0.3", "--end", "0.8"]) == 0
    (cut,) = (path for path in video.parent.iterdir() if path != video)
    first = next(pixels for *_, pixels in EpisodeReader(cut).frames({SCENE: [0]}))
    assert np.abs(first - seen(9).astype(int)).mean() < 3


def test_an_image_that_cannot_be_encoded_is_counted_as_lost(tmp_path):
    video = record(tmp_path, "h264", spoiled=(4, 5))
    reader = EpisodeReader(video)
    assert reader.counts[SCENE] == FRAMES - 2
    assert json.loads(reader.metadata["drops"])[SCENE] == 2


def test_a_camera_of_an_odd_width_is_refused():
    with pytest.raises(ValueError, match="camera scene has 63x48; set image_codec to raw"):
        video_encoders(video_contract(width=63))


def packet_of(pixels):
    """A decoded ``FFMPEGPacket``."""
    data = VideoEncoder().packet(messages.image(BEGIN * 1e-9, "c", pixels))
    return messages.deserialize(data, messages.VIDEO_PACKET)


def recorded_video(change):
    """A recording of another recorder, whose first camera is video; ``change`` the packets from the
    fourth on.
    """
    texture = cv2.GaussianBlur(
        np.random.default_rng(0).integers(0, 255, (24, 32, 3)).astype(np.uint8), (0, 0), 2
    )

    def as_packet(each):
        packet = packet_of(texture)
        packet.header = each.content.header
        if each.at > 0.25:
            change(packet)
        return packet

    entries = changed(recording(1.0), TOP, as_packet)
    return [
        replace(each, message_type=messages.VIDEO_PACKET) if each.topic == TOP else each
        for each in entries
    ]


def not_key(packet):
    packet.flags = 0


def other_codec(packet):
    packet.encoding = "mpeg9;yuv420p"


def cut_off(packet):
    packet.data = packet.data[:30]


def no_data(packet):
    packet.data = np.zeros(0, np.uint8)


def other_size(packet):
    packet.width = 64


def other_content(packet):
    packet.data = packet_of(seen(0)).data


BROKEN = {
    not_key: "is no key frame, so it depends on the images before it; record with a key frame",
    other_codec: "codec 'mpeg9' is not known; record h264, or raw images",
    cut_off: "30 bytes of 'h264.*' are no image; check the encoder",
    no_data: "0 bytes of 'h264.*' are no image; check the encoder",
    other_size: "64x24",
    other_content: "a packet of 32x24 holds an image of 64x48; check the encoder",
}


@pytest.mark.parametrize("change", BROKEN)
def test_packets_that_cannot_be_used_are_named_and_left_out(tmp_path, change):
    bag = write_bag(tmp_path / "take", recorded_video(change))
    data = loaded([bag], contract())
    assert len(data.images) == 3
    (note,) = data.notes
    assert "/scene_camera/image_raw at 0.30 s: " in note and "7 of 10 observations" in note
    assert re.search(BROKEN[change], note), note


def test_packets_of_the_genuine_transport_are_read(tmp_path):
    bag = write_bag(tmp_path / "take", recorded_video(lambda packet: None))
    data = loaded([bag], contract())
    assert len(data.images) == 10 and not data.notes
    assert EpisodeReader(bag, contract()).topics[SCENE] == messages.VIDEO_PACKET
