"""Compare our LeRobot export and import with the lerobot package.

lerobot pins other versions of our libraries, so it runs in a separate environment:

    python3 -m venv /tmp/lerobot && /tmp/lerobot/bin/pip install lerobot  # about 6 GB
    sf_training lerobot export out/demos --out out/lerobot --depth
    python tests/bench/lerobot_readback.py expect out/demos out/expected.npz # here
    /tmp/lerobot/bin/python tests/bench/lerobot_readback.py read out/lerobot out/expected.npz
    /tmp/lerobot/bin/python tests/bench/lerobot_readback.py write out/theirs  # there
    sf_training lerobot import out/theirs --contract out/theirs.yaml --out out/theirs_bags
    python tests/bench/lerobot_readback.py check out/theirs out/theirs_bags
"""

import itertools
import json
import sys
import time

import numpy as np

PICTURES = 20  # episodes whose images are compared
HORIZON = 8
CAMERAS = {"scene": (320, 240), "wrist": (320, 240)}


def expect(bags: str, out: str, action: str = "commanded", effort: str = "") -> None:
    """Write what every frame should contain, read from the bags (in our environment).

    ``action`` is the kind of action that was exported; ``effort`` that efforts were.
    """
    from sf_training.data.episode_reader import EpisodeReader, find_episodes
    from sf_training.data.image_rows import images_in_rows
    from sf_training.lerobot.export_bags import frames_per_second, stretches
    from sf_training.lerobot.export_depth import depth_in_rows

    content, tasks = {"state": [], "action": [], "length": []}, []
    episodes = 0
    for bag in find_episodes(bags):
        reader = EpisodeReader(bag)
        if reader.outcome != "success":
            continue
        with reader.cached_in_memory():
            fps, extras = frames_per_second(reader.contract, None), {"effort": bool(effort)}
            for part in stretches(reader, fps, action, 2, 0.5, depth=True, **extras):
                episode, episodes = episodes, episodes + 1
                tasks += part.tasks
                for name, value in (
                    ("state", part.state),
                    ("action", part.action),
                    ("length", [len(part.state)]),
                ):
                    content[name].append(np.asarray(value, np.float32))
                if part.effort is not None:
                    content.setdefault("effort", []).append(np.nan_to_num(part.effort))
                if episode < PICTURES:
                    images = itertools.chain(
                        images_in_rows(reader, part.indices), depth_in_rows(reader, part.depths)
                    )
                    for camera, pixels in images:
                        content.setdefault(f"{episode}/{camera}", []).append(pixels[None])
    np.savez(out, tasks=tasks, **{name: np.concatenate(parts) for name, parts in content.items()})


def read(dataset: str, expected: str) -> None:
    """Compare an exported dataset with the expected values (in lerobot's environment).

    Compared are every number, the images of some episodes and the chunks of actions; a shuffled
    pass is timed.
    """
    import torch
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    known = np.load(expected)
    start = time.perf_counter()
    data = LeRobotDataset("local/sf_ros", root=dataset)
    opened = time.perf_counter() - start
    table = data.hf_dataset.with_format("numpy")
    lengths = known["length"].astype(int)
    ends = lengths.cumsum()
    assert data.num_episodes == len(lengths) and data.num_frames == ends[-1], (
        data.num_episodes,
        data.num_frames,
    )
    figures = {
        "frames": data.num_frames,
        "episodes": data.num_episodes,
        "fps": data.fps,
        "open_s": round(opened, 2),
    }
    columns = {"observation.state": "state", "action": "action", "observation.effort": "effort"}
    for key, name in ((key, name) for key, name in columns.items() if name in known):
        figures[f"{name}_largest_error"] = float(np.abs(np.stack(table[key]) - known[name]).max())
    errors, peaks, depths = [], [], []
    for episode in range(min(PICTURES, len(lengths))):
        for frame in range(lengths[episode]):
            item = data[int(ends[episode] - lengths[episode] + frame)]
            assert item["task"] == str(
                known["tasks"][int(ends[episode] - lengths[episode] + frame)]
            )
            for camera in CAMERAS:
                seen = (
                    item[f"observation.images.{camera}"].numpy().transpose(1, 2, 0) * 255
                ).round()
                error = np.mean((seen - known[f"{episode}/{camera}"][frame]) ** 2)
                errors.append(error)
                peaks.append(10 * np.log10(255**2 / max(error, 1e-9)))
                if (
                    f"observation.images.{camera}_depth" in item
                    and f"{episode}/{camera}_depth" in known
                ):
                    truth = known[f"{episode}/{camera}_depth"][frame]
                    metres = item[f"observation.images.{camera}_depth"].numpy().squeeze()
                    metres = (
                        metres / 1000 if metres.max() > 50 else metres
                    )  # lerobot's default is millimetres
                    near = (truth > 0.011) & (truth < 9.9)
                    depths.append(float(np.abs(metres - truth)[near].max()))
    if depths:
        figures |= {"depth_pictures": len(depths), "depth_largest_error_m": round(max(depths), 5)}
    figures |= {
        "images": len(peaks),
        "psnr_db_mean": round(float(np.mean(peaks)), 1),
        "psnr_db_worst": round(float(np.min(peaks)), 1),
    }
    chunks = LeRobotDataset(
        "local/sf_ros",
        root=dataset,
        delta_timestamps={"action": [step / data.fps for step in range(HORIZON)]},
    )
    loader = torch.utils.data.DataLoader(
        chunks, batch_size=32, shuffle=True, generator=torch.Generator().manual_seed(0)
    )
    start, count = time.perf_counter(), 0
    for batch in loader:
        assert (
            batch["action"].shape[1:] == (HORIZON, known["action"].shape[1])
            and torch.isfinite(batch["observation.images.scene"]).all()
        )
        count += len(batch["action"])
        if count >= 640:
            break
    figures |= {
        "shuffled_frames_per_s": round(count / (time.perf_counter() - start), 1),
        "shuffled_frames": count,
    }
    means = data.meta.stats["observation.state"]["mean"]
    figures["statistics_largest_error"] = float(
        np.abs(np.asarray(means) - known["state"].mean(axis=0)).max()
    )
    print(json.dumps(figures | versions(), indent=1))


def write(out: str) -> None:
    """Write a dataset with lerobot's recorder, with moving images (in lerobot's environment)."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    names = [*(f"joint{number}.pos" for number in range(1, 7)), "gripper.pos"]
    features = {
        key: {"dtype": "float32", "shape": (7,), "names": names}
        for key in ("observation.state", "action")
    }
    for camera, (width, height) in CAMERAS.items():
        features[f"observation.images.{camera}"] = {
            "dtype": "video",
            "shape": (height, width, 3),
            "names": ["height", "width", "channels"],
        }
    width, height = CAMERAS["scene"]
    shape = {
        "dtype": "video",
        "shape": (height, width, 1),
        "names": ["height", "width", "channels"],
    }
    features["observation.images.scene_depth"] = shape | {"info": {"is_depth_map": True}}
    data = LeRobotDataset.create(
        "local/theirs", fps=10, features=features, root=out, robot_type="sim_arm", use_videos=True
    )
    for episode in range(3):
        for frame in range(15 + 5 * episode):
            images = {
                f"observation.images.{camera}": theirs(episode, frame, index)
                for index, camera in enumerate(CAMERAS)
            }
            images["observation.images.scene_depth"] = depth(frame)[..., None]
            numbers = {
                "observation.state": joints(episode, frame),
                "action": joints(episode, frame + 1),
            }
            data.add_frame(images | numbers | {"task": task(episode, frame)})
        data.save_episode()
    if hasattr(data, "finalize"):
        data.finalize()
    print(json.dumps(versions()))


def check(dataset: str, bags: str) -> None:
    """Compare imported bags with the original values (in our environment)."""
    from sf_training.data.episode_reader import EpisodeReader, find_episodes
    from sf_training.data.image_rows import images_in_rows

    worst_joint, errors, depths = 0.0, [], []
    for episode, bag in enumerate(find_episodes(bags)):
        reader = EpisodeReader(bag)
        count = 15 + 5 * episode
        instructions = reader.read(["/instruction"])["/instruction"]
        assert [message.data for message in instructions.messages] == [
            text for text, _ in itertools.groupby(task(episode, frame) for frame in range(count))
        ]
        read = reader.read(["/joint_states", "/teleop/joint_command"])
        for shift, topic in enumerate(read):
            for frame, message in enumerate(read[topic].messages):
                worst_joint = max(
                    worst_joint,
                    float(np.abs(message.position - joints(episode, frame + shift)).max()),
                )
        assert reader.counts["/joint_states"] == count
        for _, frame, metres in reader.frames({"/scene_camera/depth/image_raw": range(count)}):
            depths.append(float(np.abs(metres - depth(frame)).max()))
        seen = dict.fromkeys(CAMERAS, 0)
        for camera, pixels in images_in_rows(reader, np.arange(count)[:, None].repeat(2, axis=1)):
            truth = theirs(episode, seen[camera], list(CAMERAS).index(camera)).astype(float)
            errors.append(np.abs(truth - pixels).mean())
            seen[camera] += 1
    figures = {
        "joints_largest_error": worst_joint,
        "images": len(errors),
        "grey_levels_mean_error": round(float(np.mean(errors)), 2),
    }
    print(
        json.dumps(
            figures
            | {
                "depth_pictures": len(depths),
                "depth_largest_error_m": max(depths, default=0.0),
            }
        )
    )


def task(episode: int, frame: int) -> str:
    """Return an instruction that changes after ten frames."""
    return f"task {episode % 2}, step {frame // 10 % 2}"


def depth(frame: int) -> np.ndarray:
    """Return depth (H, W) float32 [m] that moves with the frame."""
    width, height = CAMERAS["scene"]
    return (0.3 + np.add.outer(np.arange(height), np.arange(width)) / 300 + 0.05 * frame).astype(
        np.float32
    )


def joints(episode: int, frame: int) -> np.ndarray:
    """Return joints (7,) float32 that encode episode and frame."""
    return np.array([0.1 * episode, 0.02 * frame, 1.2, 0.9, 0.0, -0.1, 0.035], np.float32)


def theirs(episode: int, frame: int, camera: int) -> np.ndarray:
    """Return an image whose stripes move with the frame."""
    width, height = list(CAMERAS.values())[camera]
    columns = (np.arange(width) + 6 * frame + 40 * episode) % 256
    return np.repeat(np.tile(columns, (height, 1))[..., None], 3, axis=2).astype(np.uint8)


def versions() -> dict[str, str]:
    """Return the versions of the packages that read the dataset."""
    from importlib.metadata import version

    return {name: version(name) for name in ("lerobot", "torch", "av", "datasets")} | {
        "python": sys.version.split()[0]
    }


if __name__ == "__main__":
    {"expect": expect, "read": read, "write": write, "check": check}[sys.argv[1]](*sys.argv[2:])
