"""Define the file layout and the column names of a LeRobot v3.0 dataset.

Source: the format that lerobot 0.4 and 0.6 read, with tables in Parquet, videos in MP4, and several
episodes per file.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

VERSION = "v3.0"
INFO = Path("meta/info.json")
STATISTICS = Path("meta/stats.json")
TASKS = Path("meta/tasks.parquet")
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEOS = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
# Our own: contract, URDF and source bags of the dataset. lerobot ignores it.
SOURCES = Path("meta/sf_ros")

FILES_PER_CHUNK = 1000
DATA_FILE_MB = 100
VIDEO_FILE_MB = 200

STATE, ACTION = "observation.state", "action"
EFFORT = "observation.effort"
DEPTH_SUFFIX = "_depth"  # of the camera's name
IMAGES = "observation.images."
# Our own: time of recording. Not "observation.…", which policies would use as an input.
STAMP = "stamp_s"
COUNTERS = ("frame_index", "episode_index", "index", "task_index")


class LeRobotError(ValueError):
    """A dataset cannot be written or read; the message names file, problem and cure."""


def features(joints: list[str], cameras: dict[str, tuple[int, int]], fps: int, codec: str) -> dict:
    """Return the ``features`` of info.json.

    Args:
        joints: names of the columns of state and action.
        cameras: name to (width, height).
    """
    described: dict = {}
    for name, (width, height) in cameras.items():
        information = {
            "video.height": height,
            "video.width": width,
            "video.codec": codec,
            "video.pix_fmt": "yuv420p",
            "video.is_depth_map": False,
            "video.fps": fps,
            "video.channels": 3,
            "has_audio": False,
        }
        described[IMAGES + name] = {
            "dtype": "video",
            "shape": [height, width, 3],
            "names": ["height", "width", "channels"],
            "info": information,
        }
    for key in (STATE, ACTION):
        described[key] = {"dtype": "float32", "shape": [len(joints)], "names": list(joints)}
    described["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    described[STAMP] = {"dtype": "float64", "shape": [1], "names": None}
    described |= {key: {"dtype": "int64", "shape": [1], "names": None} for key in COUNTERS}
    return described


def column(values: np.ndarray) -> pa.Array:
    """Convert (N,) or (N, C) values to a column; rows become lists of fixed length."""
    values = np.ascontiguousarray(values)
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def tasks_table(tasks: list[str]) -> pa.Table:
    """Return the table of instructions. lerobot reads it with pandas and expects an index named
    "task".
    """
    table = pa.table(
        {
            "task_index": pa.array(range(len(tasks)), pa.int64()),
            "task": pa.array(tasks, pa.string()),
        }
    )
    text = {"pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    description = {
        "index_columns": ["task"],
        "column_indexes": [
            {"name": None, "field_name": None, **text, "metadata": {"encoding": "UTF-8"}}
        ],
        "columns": [
            {
                "name": "task_index",
                "field_name": "task_index",
                "pandas_type": "int64",
                "numpy_type": "int64",
                "metadata": None,
            },
            {"name": "task", "field_name": "task", **text},
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.3.3",
    }
    return table.replace_schema_metadata({b"pandas": json.dumps(description).encode()})
