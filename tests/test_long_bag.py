"""Tests that memory does not grow with the length of a bag that is read."""

import pytest
from bench.long_bag import STEPS, index, long_contract, peak_mb, write_long_bag

from sf_training.data.dataset import load_dataset
from sf_training.data.episode_reader import EpisodeReader
from sf_training.lerobot.export_bags import stretches

CONTRACT = long_contract()
# Bags of up to 256 MB may be cached in memory, so both are longer.
SHORT_S, LONG_S = 6.0, 15.0
GROWTH_MB = 12.0  # for 500 MB more; 70 bytes for each message


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    return [
        write_long_bag(folder / f"{seconds}.mcap", CONTRACT, seconds)
        for seconds in (SHORT_S, LONG_S)
    ]


def test_the_sparse_bags_are_long_and_give_labels(bags):
    assert bags[1].stat().st_size > 8e8 and bags[1].stat().st_blocks * 512 < 3e7
    data = load_dataset([bags[0]], CONTRACT, size=8, depth=False, workers=1, progress=False)
    assert len(data.pair_frame) == pytest.approx(SHORT_S / CONTRACT.action.step_s, abs=2)
    (found,) = stretches(EpisodeReader(bags[0], CONTRACT), 10, "commanded", 2, 0.5)
    assert len(found.indices) == pytest.approx(10 * SHORT_S, abs=2)


@pytest.mark.parametrize("step", STEPS)
def test_memory_does_not_grow_with_the_length(bags, step):
    short, long = bags
    STEPS[step](short, CONTRACT)
    assert peak_mb(lambda: STEPS[step](long, CONTRACT)) < GROWTH_MB


def test_a_reader_that_keeps_the_images_fails_the_bound(bags):
    def keep(bag):
        reader = EpisodeReader(bag, CONTRACT)
        kept = [image for _, _, image in reader.frames({"/scene_camera/image_raw": range(60)})]
        index(bag, CONTRACT)
        assert len(kept) == 60

    assert peak_mb(lambda: keep(bags[0])) > 4 * GROWTH_MB
