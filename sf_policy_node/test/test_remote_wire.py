"""Tests of messages of policy servers: openpi's bytes, json_numpy's layout, invalid input."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sf_policy_node.vla.remote.wire import WireError, from_json, pack, to_json, unpack

# Result of openpi_client.msgpack_numpy.packb (Physical-Intelligence/openpi 15a9616) on OBSERVATION.
OBSERVATION = {
    "observation/state": np.array([1, -2.5], np.float32),
    "n": np.float64(0.5),
    "prompt": "go",
}
OPENPI = bytes.fromhex(
    "83b16f62736572766174696f6e2f737461746584c40b5f5f6e6461727261795f5fc3c40464617461c4080000803f000020c0c4056474797065a33c6634c405736861"
    "70659102a16ecb3fe0000000000000a670726f6d7074a2676f"
)
# Result of json_numpy 2.1.1, json_numpy.dumps on [np.arange(3, dtype=np.float32)].
JSON_NUMPY = '[{"__numpy__": "AAAAAAAAgD8AAABA", "dtype": "<f4", "shape": [3]}]'


def test_bytes_equal_openpi():
    found = unpack(OPENPI)
    assert found["prompt"] == "go" and found["n"] == 0.5
    assert (
        found["observation/state"].tolist() == [1.0, -2.5]
        and found["observation/state"].dtype == np.float32
    )
    assert pack(OBSERVATION) == OPENPI


def test_a_numpy_scalar_keeps_its_dtype():
    found = unpack(pack({"n": np.float32(0.1), "k": np.int16(-3)}))
    assert (found["n"].dtype, found["k"].dtype) == (np.float32, np.int16) and (
        found["n"],
        found["k"],
    ) == (np.float32(0.1), -3)


def test_json_equals_json_numpy():
    (found,) = from_json(JSON_NUMPY.encode())
    assert found.tolist() == [0.0, 1.0, 2.0] and found.dtype == np.float32
    assert json.loads(to_json([np.arange(3, dtype=np.float32)])) == json.loads(JSON_NUMPY)


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(["u1", "i8", "<f4", "<f8", "?", ">f4"]),
    shape=st.lists(st.integers(0, 4), min_size=0, max_size=3),
    text=st.text(max_size=10),
)
def test_arrays_survive_a_round_trip(dtype, shape, text):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    for there, back in ((pack, unpack), (to_json, from_json)):
        found = back(there({"a": {"b": [array]}, "text": text}))
        assert (
            found["text"] == text
            and found["a"]["b"][0].dtype == array.dtype
            and np.array_equal(found["a"]["b"][0], array)
        )


@settings(max_examples=300, deadline=None)
@given(noise=st.binary(max_size=200))
def test_noise_is_refused_or_read(noise):
    for read in (unpack, from_json):
        try:
            read(noise)
        except WireError:
            continue


@settings(max_examples=200, deadline=None)
@given(
    where=st.integers(0, len(OPENPI) - 1),
    value=st.integers(0, 255),
    cut=st.integers(0, len(OPENPI)),
)
def test_a_damaged_message_is_refused_or_read(where, value, cut):
    damaged = bytearray(OPENPI)
    damaged[where] = value
    for data in (bytes(damaged), OPENPI[:cut]):
        try:
            unpack(data)
        except WireError:
            continue


def array(data=b"\0" * 8, dtype="<f4", shape=(2,)):
    import msgpack

    return msgpack.packb({b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape})


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (array(shape=(3,)), r"of shape \(3,\) needs 12 bytes, got 8"),
        (array(shape=(-2, -1)), r"has the shape \[-2, -1\]"),
        (array(shape="ab"), "has the shape 'ab'"),
        (array(dtype="O"), r"dtype '\|O'; only numbers"),
        (array(dtype="f4,f4"), "only numbers"),
        (array(dtype="<U2"), "only numbers"),
        (array(dtype="nonsense"), "has the dtype 'nonsense'"),
        (array(data="text"), "got str"),
        (array(shape=(2**40,)), "needs 4398046511104 bytes"),
        (b"\xc1", "not a msgpack message"),
        (pack({"a": 1}) + b"\x00", "not a msgpack message"),
        (b"\x91" * 2000, "not a msgpack message"),
    ],
)
def test_the_error_of_a_message_is_named(message, reason):
    with pytest.raises(WireError, match=reason):
        unpack(message)


def test_objects_are_never_sent():
    for value in (np.array([object()]), np.array(["text"]), object()):
        for write in (pack, to_json):
            with pytest.raises(WireError, match=r"only numbers|cannot send a object"):
                write({"a": value})
