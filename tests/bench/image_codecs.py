"""Size, error and processor time of recorded images: raw in chunks of zstd, H.264 as the recorder
encodes it (``image_codec: h264``), and JPEG for comparison.

``PYTHONPATH=tests:$PYTHONPATH python3 -m bench.image_codecs``
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from types import SimpleNamespace

import cv2
import numpy as np
import zstandard
from bench.loaders import scene
from rich.console import Console
from rich.table import Table

from sf_bringup.graph import find_robot
from sf_policy_node.contract import load_contract
from sf_training.data.image_checks import decoded_image
from sf_training.recording import messages
from sf_training.recording.writer.video_encoder import VideoEncoder
from sf_training.simulation.arm_sim import ArmSim

FRAMES = 30
JPEG_QUALITY = 90
SCALE = 2  # 320x240 of the simulation to 640x480


def main() -> None:
    """Print one table for images of 640x480 of two sources."""
    cv2.setNumThreads(1)
    table = Table(
        *("images", "codec", "KB", "encode [ms]", "decode [ms]"),
        *("mean error", "99 % error", "PSNR [dB]"),
        title=f"{FRAMES} images of 640x480; processor time; errors in grey levels of 255",
    )
    noisy = [scene(0, frame, 0) for frame in range(FRAMES)]
    for source, images in (("simulated arm", simulated()), ("noise and texture", noisy)):
        for name, (encode, decode) in codecs().items():
            table.add_row(source, name, *measured(images, encode, decode))
    Console(width=120).print(table)


def codecs() -> dict[str, tuple[Callable, Callable]]:
    """Return how each codec converts an image message to bytes, and bytes to pixels."""
    video = VideoEncoder()
    pack, unpack = zstandard.ZstdCompressor(1), zstandard.ZstdDecompressor()

    def decoded(data, kind):
        return decoded_image(messages.deserialize(data, kind), is_depth=False, topic="")

    def jpeg(image):
        pixels = decoded(image, messages.IMAGE)[..., ::-1]
        return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]

    def jpeg_pixels(data):
        return decoded_image(SimpleNamespace(format="jpeg", data=data), is_depth=False, topic="")

    return {
        "raw, zstd 1": (
            pack.compress,
            lambda data: decoded(unpack.decompress(data), messages.IMAGE),
        ),
        "h264": (video.packet, lambda data: decoded(data, messages.VIDEO_PACKET)),
        f"JPEG {JPEG_QUALITY}": (jpeg, jpeg_pixels),
    }


def measured(images: list[np.ndarray], encode: Callable, decode: Callable) -> list[str]:
    """Return the figures of one codec."""
    raw = [messages.image(1.0, "camera", pixels) for pixels in images]
    encode(raw[0])
    started = time.process_time()
    packets = [encode(image) for image in raw]
    encoded = time.process_time()
    found = [decode(packet) for packet in packets]
    decoded = time.process_time()
    error = np.abs(np.array(found, np.int16) - np.array(images, np.int16)).astype(np.uint8)
    square = float((error.astype(np.float32) ** 2).mean())
    return [
        f"{np.mean([memoryview(packet).nbytes for packet in packets]) / 1e3:.0f}",
        f"{1e3 * (encoded - started) / len(raw):.1f}",
        f"{1e3 * (decoded - encoded) / len(raw):.1f}",
        f"{error.mean():.2f}",
        f"{np.quantile(error, 0.99):.0f}",
        f"{10 * np.log10(255**2 / square):.1f}" if square else "exact",
    ]


def simulated() -> list[np.ndarray]:
    """Return images of different scenes of the simulated arm, scaled to 640x480."""
    sim = ArmSim(load_contract(find_robot("sim_arm")))
    images = []
    for seed in range(FRAMES):
        sim.reset(seed)
        pixels = sim.render("scene")
        images.append(cv2.resize(pixels, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_CUBIC))
    sim.close()
    return images


if __name__ == "__main__":
    argparse.ArgumentParser(prog="bench.image_codecs", description=__doc__).parse_args()
    main()
