"""Draw the camera images of several episodes into one PNG: a row of images for each camera of each
instruction, time from left to right.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

_CELL = (160, 120)  # width and height of an image [px]
_TITLE, _TIME = 26, 14  # heights of the lines of text above and below the images [px]
_INK, _PAPER = (30, 30, 30), 250
_GOOD, _BAD = (40, 120, 40), (40, 40, 190)  # BGR


class ContactSheet:
    """Collect images and write them as one PNG.

    Args:
        columns: times shown for each instruction, spread evenly over those collected.
    """

    def __init__(self, columns: int = 8) -> None:
        self._columns = columns
        self._rows: list[tuple[str, bool, list[tuple[float, list[np.ndarray]]]]] = []
        self._moments: list[tuple[float, list[np.ndarray]]] = []

    def add(self, seconds: float, images: list[np.ndarray | None]) -> None:
        """Add the images (H, W, 3) RGB of all cameras at one time of the current instruction.

        Without an image of every camera, do nothing.
        """
        if all(image is not None for image in images):
            self._moments.append(
                (
                    seconds,
                    [cv2.resize(image, _CELL, interpolation=cv2.INTER_AREA) for image in images],
                )
            )

    def finish_row(self, title: str, good: bool) -> None:
        """End the current instruction; the title is green if ``good``, else red."""
        self._rows.append((title, good, self._moments))
        self._moments = []

    def write(self, path: Path) -> None:
        """Write the PNG.

        Raises:
            OSError: it cannot be written.
        """
        width = self._columns * _CELL[0]
        sheet = np.vstack(
            [self._draw(title, good, moments, width) for title, good, moments in self._rows]
        )
        done, data = cv2.imencode(".png", sheet)
        if not done:
            raise OSError(f"{path}: the image could not be encoded")
        path.write_bytes(data.tobytes())

    def _draw(self, title: str, good: bool, moments: list, width: int) -> np.ndarray:
        cameras = len(moments[0][1]) if moments else 0
        row = np.full((_TITLE + cameras * _CELL[1] + _TIME, width, 3), _PAPER, np.uint8)
        cv2.putText(
            row,
            title,
            (6, 18),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.55,
            _GOOD if good else _BAD,
            1,
            cv2.LINE_AA,
        )
        chosen = (
            np.linspace(0, len(moments) - 1, min(self._columns, len(moments))).round().astype(int)
        )
        for column, index in enumerate(chosen):
            seconds, images = moments[index]
            left = column * _CELL[0]
            for camera, image in enumerate(images):
                top = _TITLE + camera * _CELL[1]
                row[top : top + _CELL[1], left : left + _CELL[0]] = image[..., ::-1]
            bottom = row.shape[0] - 4
            cv2.putText(
                row,
                f"{seconds:.1f} s",
                (left + 4, bottom),
                cv2.FONT_HERSHEY_SIMPLEX,
                0.35,
                _INK,
                1,
                cv2.LINE_AA,
            )
        return row
