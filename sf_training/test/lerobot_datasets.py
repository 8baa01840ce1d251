"""Small LeRobot datasets as other recorders write them, and faults to insert into them."""

import copy
import json
import math
import random

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from synthetic_episodes import tiny_contract

SIDE = (16, 12)  # width, height
JOINTS = ["j1", "j2", "j3", "j4", "j5", "j6", "claw"]
FPS = 10
REST = np.array([0.0, 0.4, 1.4, 1.3, 0.0, 0.0, 0.02])
SPEED = np.array([*[0.01] * 6, 0.0005])  # s, duration of a frame


def one_camera_contract(size=SIDE, *, depth=False):
    """Return the simulated arm's contract with one camera of 16x12, or another size with depth."""
    camera = tiny_contract().model_dump(mode="json")["cameras"][0]
    return tiny_contract(
        cameras=[
            camera
            | {"width": size[0], "height": size[1]}
            | ({} if depth else {"depth_topic": None})
        ]
    )


def save_contract(folder, contract):
    """Write ROBOT.yaml with its URDF; return its path."""
    path = folder / "robot.yaml"
    path.write_text(contract.to_yaml())
    (folder / contract.urdf).write_text(contract.urdf_xml)
    return path


def frames_of(count, episode):
    """Return images whose brightness encodes frame and episode."""
    return [
        np.full((SIDE[1], SIDE[0], 3), 20 + 10 * frame + 60 * episode, np.uint8)
        for frame in range(count)
    ]


def info(described, version="v3.0", **changes):
    """Return info.json with the paths of its version."""
    paths = {
        "v3": (
            "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        ),
        "v2": (
            "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
            "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        ),
    }[version[:2]]
    return {
        "codebase_version": version,
        "robot_type": "claw_bot",
        "fps": FPS,
        "chunks_size": 1000,
        "data_path": paths[0],
        "video_path": paths[1],
        "features": described,
    } | changes


def write(
    root,
    lengths=(6, 5),
    *,
    tasks=("stack the cups", "rinse them"),
    task_of=lambda episode, frame: 0,
    values=lambda episode, frame: REST + SPEED * frame,
    camera="observation.images.front",
    video=False,
    names=tuple(JOINTS),
    image_names=("height", "width", "channels"),
    image_shape=(SIDE[1], SIDE[0], 3),
    version="v3.0",
    extra=lambda episode, frame: {},
    **changes,
):
    """Write a dataset of one camera; ``changes`` replace keys of info.json."""
    numbers = {
        "dtype": "float32",
        "shape": [7],
        "names": list(names) if isinstance(names, tuple) else names,
    }
    image = {
        "dtype": "video" if video else "image",
        "shape": list(image_shape),
        "names": image_names and list(image_names),
    }
    described = info(
        {"observation.state": numbers, "action": numbers, camera: image}, version, **changes
    )
    rows = [
        {
            "observation.state": values(episode, frame).tolist(),
            "action": (values(episode, frame) + 0.2 * SPEED).tolist(),
            "timestamp": frame / FPS,
            "frame_index": frame,
            "episode_index": episode,
            "task_index": task_of(episode, frame),
            **({} if video else {camera: _png(frames_of(length, episode)[frame])}),
            **extra(episode, frame),
        }
        for episode, length in enumerate(lengths)
        for frame in range(length)
    ]
    listed = [
        {
            "episode_index": episode,
            "length": length,
            "tasks": sorted({tasks[task_of(episode, frame)] for frame in range(length)}),
        }
        for episode, length in enumerate(lengths)
    ]
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(
        json.dumps({key: value for key, value in described.items() if value != "absent"})
    )
    (_write_v2 if version.startswith("v2") else _write_v3)(
        root, rows, listed, tasks, camera if video else None
    )
    return root


def _write_v3(root, rows, listed, tasks, video):
    start = 0.0
    for row in listed:
        row |= {"data/chunk_index": 0, "data/file_index": 0}
        if video:
            row |= {f"videos/{video}/{name}": 0 for name in ("chunk_index", "file_index")} | {
                f"videos/{video}/from_timestamp": start
            }
            start += row["length"] / FPS
    for part, content in (("data", rows), ("meta/episodes", listed)):
        path = root / part / "chunk-000/file-000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(content), path)
    pq.write_table(
        pa.table({"task_index": list(range(len(tasks))), "task": list(tasks)}),
        root / "meta/tasks.parquet",
    )
    if video:
        frames = [
            image for row in listed for image in frames_of(row["length"], row["episode_index"])
        ]
        write_video(root / f"videos/{video}/chunk-000/file-000.mp4", frames)


def _write_v2(root, rows, listed, tasks, video):
    (root / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, listed)))
    (root / "meta/tasks.jsonl").write_text(
        "\n".join(json.dumps({"task_index": i, "task": text}) for i, text in enumerate(tasks))
    )
    for row in listed:
        path = root / f"data/chunk-000/episode_{row['episode_index']:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(
            pa.Table.from_pylist(
                [each for each in rows if each["episode_index"] == row["episode_index"]]
            ),
            path,
        )
        if video:
            name = f"videos/chunk-000/{video}/episode_{row['episode_index']:06d}.mp4"
            write_video(root / name, frames_of(row["length"], row["episode_index"]))


def write_video(path, frames, rate=FPS):
    """Write an H.264 file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=rate, options={"g": "2", "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = *SIDE, "yuv420p"
        for pixels in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))


def _png(pixels):
    return {"bytes": cv2.imencode(".png", pixels)[1].tobytes(), "path": "frame.png"}


JUNK = [
    None,
    True,
    -1,
    0,
    1,
    3,
    10**18,
    1e308,
    math.nan,
    "",
    "x",
    "v2.1",
    "v3.0",
    "{",
    "../..",
    [],
    [[]],
    [0],
    [1, 2, 3],
    {},
    {"a": None},
]


def break_one(root, rng: random.Random) -> str:
    """Insert one fault into a dataset; return a description."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    path = rng.choice(files)
    kinds = ("content", "content", "content", "cut", "flip", "remove", "empty")
    kind = rng.choice(kinds) if path.stat().st_size else "remove"
    if kind == "cut":
        data = path.read_bytes()
        path.write_bytes(data[: rng.randrange(len(data))])
    elif kind == "flip":
        data = bytearray(path.read_bytes())
        for _ in range(rng.choice((1, 3, 20))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
    elif kind == "remove":
        path.unlink()
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        try:
            _change_content(path, files, rng)
        except (
            ValueError,
            TypeError,
            LookupError,
            OSError,
            pa.ArrowException,
        ):  # already broken by another fault
            path.write_bytes(b"junk")
    return f"{kind} of {path.relative_to(root)}"


def _change_content(path, files, rng):
    if path.suffix == ".json":
        path.write_text(json.dumps(_swapped(json.loads(path.read_text()), rng)))
    elif path.suffix == ".jsonl":
        lines = path.read_text().splitlines()
        line = rng.randrange(len(lines))
        lines[line] = json.dumps(_swapped(json.loads(lines[line]), rng))
        path.write_text("\n".join(lines))
    elif path.suffix == ".parquet":
        _swap_column(path, rng)
    else:
        path.write_bytes(rng.choice(files).read_bytes())


def _swapped(content, rng):
    """Return JSON with one value replaced, removed or swapped with another."""
    content = copy.deepcopy(content)
    positions = list(_value_positions(content))
    holder, key = rng.choice(positions)
    action = rng.choice(("junk", "junk", "drop", "exchange", "rename"))
    if action == "junk":
        holder[key] = rng.choice(JUNK)
    elif action == "exchange":
        other, position = rng.choice(positions)
        holder[key], other[position] = copy.deepcopy(other[position]), copy.deepcopy(holder[key])
    else:
        value = holder.pop(key)
        if action == "rename" and isinstance(holder, dict):
            holder[rng.choice(["x", "observation.images.x", "observation.image", "action"])] = value
    return content


def _value_positions(content):
    keys = content if isinstance(content, dict) else range(len(content))
    for key in keys:
        yield content, key
        if isinstance(content[key], dict | list):
            yield from _value_positions(content[key])


def _swap_column(path, rng):
    table = pq.read_table(path)
    column = rng.randrange(table.num_columns)
    name, values = table.column_names[column], table.column(column).to_pylist()
    action = rng.choice(("drop", "junk", "none", "exchange", "rows", "rename", "nest"))
    if action == "drop":
        table = table.remove_column(column)
    elif action == "exchange":
        other = rng.choice(table.column_names)
        table = table.set_column(column, name, table[other])
    elif action == "rows":
        rows = list(range(table.num_rows))
        rng.shuffle(rows)
        table = table.take(pa.array(rows[: rng.randrange(len(rows) + 1)], pa.int64()))
    elif action == "rename":
        table = table.rename_columns(
            [*table.column_names[:column], "x", *table.column_names[column + 1 :]]
        )
    elif action == "nest":
        table = table.set_column(
            column, name, pa.array([[None if rng.random() < 0.3 else value] for value in values])
        )
    else:
        junk = rng.choice([-1, 7, 2**40, math.nan, math.inf, "x", "", b"\0", [1.0], [], {"a": 1}])
        changed = [None if action == "none" and rng.random() < 0.5 else value for value in values]
        table = table.set_column(
            column, name, pa.array(changed if action == "none" else [junk] * len(values))
        )
    pq.write_table(table, path)
