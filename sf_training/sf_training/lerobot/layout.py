"""Where things lie in a LeRobot v3.0 dataset, and what its columns are called.

Written after the dataset format that lerobot 0.4 and 0.6 read: tables in Parquet, videos in MP4,
several episodes a file.
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
SOURCES = Path(
    "meta/sf_ros"
)  # ours: contract, URDF and the bags that the dataset was made of; lerobot ignores it

FILES_PER_CHUNK = 1000
DATA_FILE_MB = 100
VIDEO_FILE_MB = 200

STATE, ACTION = "observation.state", "action"
EFFORT = "observation.effort"
DEPTH_SUFFIX = "_depth"  # of the camera's name
IMAGES = "observation.images."
STAMP = (  # ours: when it was recorded; not "observation.…", or policies would take it for an input
    "stamp_s"
)
COUNTERS = ("frame_index", "episode_index", "index", "task_index")


class LeRobotError(ValueError):
    """A dataset cannot be written or read; the message names the file, what is wrong and the
    cure.
    """


def features(joints: list[str], cameras: dict[str, tuple[int, int]], fps: int, codec: str) -> dict:
    """The ``features`` of info.json.

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
    """(N,) or (N, C) values as a column; rows of several values become lists of fixed length."""
    values = np.ascontiguousarray(values)
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def tasks_table(tasks: list[str]) -> pa.Table:
    """Instructions with their numbers; lerobot reads it with pandas and looks instructions up in
    the index named "task".
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
