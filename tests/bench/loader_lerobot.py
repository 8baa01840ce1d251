"""LeRobot's side of ``loaders.py``, a script for LeRobot's own environment.

    PYTHON loader_lerobot.py DATASET '{"window": 8, "batch": 16, "workers": 2, "uint8": false}'

It prints one JSON line: camera images per second and processor second of both epochs, and memory.
"""

import json
import sys
import time
from importlib.metadata import version

import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from process_tree import PeakMemory, cpu_s

WARM_UP = 3  # batches, while the processes start


def main(root: str, window: int, batch: int, workers: int, *, uint8: bool) -> dict:
    """Read two epochs in random order."""
    plain = LeRobotDataset("local/bench", root=root)
    cameras = plain.meta.camera_keys
    past = [(step - window + 1) / plain.fps for step in range(window)]
    times = dict.fromkeys(cameras, past) | {"action": [step / plain.fps for step in range(8)]}
    data = LeRobotDataset("local/bench", root=root, delta_timestamps=times, return_uint8=uint8)
    ends = torch.as_tensor(plain.meta.episodes["dataset_to_index"]).tolist()
    starts = torch.as_tensor(plain.meta.episodes["dataset_from_index"]).tolist()
    frames = [
        frame
        for start, end in zip(starts, ends, strict=True)
        for frame in range(start + window - 1, end)
    ]
    frames = frames[: len(frames) - len(frames) % batch]
    generator = torch.Generator().manual_seed(0)
    order = [
        [frames[index] for index in torch.randperm(len(frames), generator=generator).tolist()]
        for _ in range(2)
    ]
    warm = order[1][: WARM_UP * batch]
    sampler = [*warm, *order[0], *order[1]]
    loader = torch.utils.data.DataLoader(
        data, batch_size=batch, sampler=sampler, num_workers=workers
    )
    images = len(frames) * window * len(cameras)
    result = {"images": images, "windows": len(frames)}
    with PeakMemory() as memory:
        batches = iter(loader)
        for _ in range(WARM_UP):
            check(next(batches), cameras, batch, window)
        for epoch in ("first", "later"):
            clock, processor = time.perf_counter(), cpu_s()
            for _ in range(len(frames) // batch):
                check(next(batches), cameras, batch, window)
            result[f"{epoch}_per_s"] = images / (time.perf_counter() - clock)
            result[f"{epoch}_per_cpu_s"] = images / max(cpu_s() - processor, 0.01)
    names = ("lerobot", "torch", "torchcodec", "av")
    return result | {"memory_mb": memory.mb, "versions": {name: version(name) for name in names}}


def check(found: dict, cameras: list[str], batch: int, window: int) -> None:
    """Fail if a batch does not hold what was asked for."""
    for key in cameras:
        shape = tuple(found[key].shape)
        assert shape[:-2] == ((batch, window, 3) if window > 1 else (batch, 3)), shape
    assert found["action"].shape[1] == 8


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(main(sys.argv[1], **json.loads(sys.argv[2]))))
