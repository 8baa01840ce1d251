"""Tests of image workers: same batches, and errors in one sentence."""

import numpy as np
import pytest
from foreign_recordings import contract, loaded, recording, write_bag

from sf_training.data.bag_files import BagError
from sf_training.training.batches.batches import Batches
from sf_training.training.training_set import ContrastiveSampler

ROBOT = contract()


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bags")
    return [write_bag(folder / f"take{number}", recording(0.6)) for number in range(2)]


class Data:
    """The part of a training set that batches use."""

    def __init__(self, dataset):
        self.images = dataset.images


def batches(dataset, accumulate=1, **options):
    labels = np.arange(len(dataset.pair_frame))
    sampler = ContrastiveSampler(dataset.pair_frame, labels, 0, 4, 7)
    return Batches(Data(dataset), sampler, accumulate=accumulate, **options)


def test_workers_give_the_batches_of_one_process(bags):
    dataset = loaded(bags, ROBOT)
    plain = batches(dataset, 2, ahead=0)
    spread = batches(dataset, 2, workers=2)
    try:
        for _ in range(6):
            expected, found = next(plain), next(spread)
            assert found.state == expected.state and len(found.micro_batches) == 2
            for ours, theirs in zip(found.micro_batches, expected.micro_batches, strict=True):
                np.testing.assert_array_equal(ours.frames, theirs.frames)
                np.testing.assert_array_equal(ours.images, theirs.images)
                np.testing.assert_array_equal(ours.images, dataset.images[ours.frames])

        for bag in bags:
            next(bag.glob("*.mcap")).rename(bag / "gone")
        with pytest.raises(BagError, match="was removed after training had started") as refusal:
            for _ in range(9):
                next(spread)
        assert "\n" not in str(refusal.value)
    finally:
        spread.close()
