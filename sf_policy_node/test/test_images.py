"""Tests of image decoding against rosbags-image, an independent implementation."""

import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from rosbags.image import message_to_cvimage

from sf_policy_node.perception.images import (
    ImageError,
    decode_compressed,
    decode_depth,
    decode_image,
)

HEIGHT, WIDTH = 6, 8
CHANNELS = {
    "rgb8": 3,
    "bgr8": 3,
    "rgba8": 4,
    "bgra8": 4,
    "mono8": 1,
    "uyvy": 2,
    "yuv422": 2,
    "yuv422_yuy2": 2,
    "yuyv": 2,
}
BAYER = ["bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"]


def _message(encoding: str, channels: int) -> SimpleNamespace:
    data = np.random.default_rng(7).integers(0, 256, HEIGHT * WIDTH * channels, dtype=np.uint8)
    return SimpleNamespace(
        encoding=encoding,
        height=HEIGHT,
        width=WIDTH,
        step=WIDTH * channels,
        data=data,
        is_bigendian=False,
    )


@pytest.mark.parametrize("encoding", [*CHANNELS, *BAYER])
def test_colour_encodings_agree_with_rosbags_image(encoding):
    message = _message(encoding, CHANNELS.get(encoding, 1))
    ours = decode_image(encoding, HEIGHT, WIDTH, message.step, message.data.tobytes())
    assert ours.shape == (HEIGHT, WIDTH, 3) and ours.dtype == np.uint8
    np.testing.assert_array_equal(ours, message_to_cvimage(message, "rgb8"))


def test_generic_opencv_encodings_are_read_as_bgr():
    message = _message("8UC3", 3)
    np.testing.assert_array_equal(
        decode_image("8UC3", HEIGHT, WIDTH, message.step, message.data),
        message.data.reshape(6, 8, 3)[..., ::-1],
    )


@pytest.mark.parametrize("last_row_padded", [True, False])
def test_padding_at_the_row_ends_is_skipped(last_row_padded):
    pixels = np.arange(HEIGHT * WIDTH * 3, dtype=np.uint8).reshape(HEIGHT, WIDTH * 3)
    padded = np.pad(pixels, ((0, 0), (0, 8)), constant_values=255).ravel()
    data = padded if last_row_padded else padded[:-8]
    np.testing.assert_array_equal(
        decode_image("rgb8", HEIGHT, WIDTH, WIDTH * 3 + 8, data.tobytes()).reshape(HEIGHT, -1),
        pixels,
    )


def test_rgb8_is_not_copied():
    data = bytearray(HEIGHT * WIDTH * 3)
    image = decode_image("rgb8", HEIGHT, WIDTH, WIDTH * 3, data)
    data[0] = 77
    assert image[0, 0, 0] == 77


def test_depth_in_metres_from_both_encodings_and_byte_orders():
    metres = np.linspace(0.5, 3.0, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    np.testing.assert_array_equal(
        decode_depth("32FC1", HEIGHT, WIDTH, WIDTH * 4, metres.tobytes()), metres
    )
    millimetres = (metres * 1000).astype(np.uint16)
    millimetres[0, 0] = 0
    depth = decode_depth("16UC1", HEIGHT, WIDTH, WIDTH * 2, millimetres.tobytes())
    assert np.isnan(depth[0, 0]) and depth.dtype == np.float32
    np.testing.assert_allclose(depth[1:], metres[1:], atol=1e-3)
    other = sys.byteorder == "little"
    swapped = decode_depth(
        "16UC1", HEIGHT, WIDTH, WIDTH * 2, millimetres.byteswap().tobytes(), is_bigendian=other
    )
    np.testing.assert_array_equal(swapped, depth)


@pytest.mark.parametrize(("suffix", "tolerance"), [(".png", 0), (".jpg", 12)])
def test_compressed_images_are_decoded(suffix, tolerance):
    pixels = cv2.resize(
        np.random.default_rng(1).integers(0, 256, (3, 4, 3), dtype=np.uint8),
        (64, 48),
        interpolation=cv2.INTER_CUBIC,
    )
    data = cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
    decoded = decode_compressed("rgb8; compressed bgr8", data)
    assert np.abs(decoded.astype(int) - pixels).mean() <= tolerance
    np.testing.assert_array_equal(
        decoded, message_to_cvimage(SimpleNamespace(format="jpeg", data=data), "rgb8")
    )


def test_errors_name_topic_encoding_and_cure():
    with pytest.raises(ImageError, match=r"/cam: encoding 'rgb12'.*set the driver to one of rgb8"):
        decode_image("rgb12", 2, 2, 6, b"", source="/cam")
    with pytest.raises(ImageError, match=r"/cam: encoding '16UC1'.*depth_topic"):
        decode_image("16UC1", 2, 2, 4, b"", source="/cam")
    with pytest.raises(ImageError, match=r"/cam: 5 bytes do not hold 2x2 rgb8"):
        decode_image("rgb8", 2, 2, 6, b"12345", source="/cam")
    with pytest.raises(ImageError, match=r"/d: encoding 'rgb8' is not depth"):
        decode_depth("rgb8", 2, 2, 6, b"", source="/d")
    for data in (b"", b"no image"):
        with pytest.raises(ImageError, match=r"/c: .* no JPEG or PNG"):
            decode_compressed("jpeg", data, source="/c")
    with pytest.raises(ImageError, match="compressed depth"):
        decode_compressed("16UC1; compressedDepth png", b"", source="/c")
    png = cv2.imencode(".png", np.zeros((2, 2), np.uint16))[1].tobytes()
    with pytest.raises(ImageError, match="compressed depth"):
        decode_compressed("16UC1; png compressed ", png, source="/c")


def test_a_jpeg_whose_header_claims_an_absurd_size_is_not_an_image():
    data = bytearray(cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    size = data.index(b"\xff\xc0") + 5
    data[size : size + 4] = b"\xff\xff\xff\xff"
    with pytest.raises(ImageError, match=r"/cam: .* are no JPEG or PNG image"):
        decode_compressed("jpeg", bytes(data), source="/cam")
