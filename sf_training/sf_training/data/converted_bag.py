"""Restore the episode record of a bag after ``ros2 bag convert``, which drops it."""

from __future__ import annotations

from sf_training.data.bag_storage import Bag
from sf_training.recording import messages
from sf_training.recording.writer.episode_message import EPISODE_TOPIC, read_episode_message
from sf_training.recording.writer.episode_writer import CONTRACT_ATTACHMENT
from sf_training.recording.writer.sealing import EPISODE_RECORD


def restore_record(bag: Bag) -> None:
    """Restore episode record, contract and URDF from the message on ``/sf_episode``, if the bag has
    lost them.
    """
    if CONTRACT_ATTACHMENT in bag.attachments and any(
        name == EPISODE_RECORD for name, _ in bag.records
    ):
        return
    numbers = {
        number
        for number, channel in enumerate(bag.channels)
        if channel.topic == EPISODE_TOPIC and channel.type_name == messages.STRING and channel.count
    }
    if not numbers:
        return
    found = [read_episode_message(located.data) for located in bag.messages(numbers, [])]
    if found and found[-1]:
        record, contract, urdf_name, urdf = found[-1]
        bag.attachments |= {CONTRACT_ATTACHMENT: contract.encode(), urdf_name: urdf.encode()}
        bag.records.append((EPISODE_RECORD, record))
