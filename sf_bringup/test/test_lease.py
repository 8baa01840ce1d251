"""Tests of the Fast DDS profile of short-lived commands."""

import os
from pathlib import Path
from xml.etree import ElementTree

import pytest

from sf_bringup.lease import LEASE_S, short_lease

VARIABLE = "FASTDDS_DEFAULT_PROFILES_FILE"
SHIPPED = Path(__file__).parents[2] / "docker" / "fastdds.xml"
SPACE = "{http://www.eprosima.com}"


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE", raising=False)
    return tmp_path


def leases_of(path):
    return [each.text for each in ElementTree.parse(path).iter(f"{SPACE}sec")]


def test_the_profile_keeps_its_transports_and_gets_a_lease(monkeypatch):
    monkeypatch.setenv(VARIABLE, str(SHIPPED))
    with short_lease():
        path = os.environ[VARIABLE]
        tree = ElementTree.parse(path)
        assert leases_of(path) == [str(LEASE_S), "1"]
        kept = [each.text for each in tree.iter(f"{SPACE}transport_id")]
    assert kept == [each.text for each in ElementTree.parse(SHIPPED).iter(f"{SPACE}transport_id")]
    assert os.environ[VARIABLE] == str(SHIPPED)
    assert not leases_of(SHIPPED)


def test_a_profile_without_a_default_participant_or_with_a_lease_stays(monkeypatch, folder):
    own = folder / "own.xml"
    with_lease = SHIPPED.read_text().replace("</rtps>", "<builtin/></rtps>")
    other = SHIPPED.read_text().replace('is_default_profile="true"', "")
    for text in (with_lease, other, "no XML"):
        own.write_text(text)
        monkeypatch.setenv(VARIABLE, str(own))
        with short_lease():
            assert os.environ[VARIABLE] == str(own)


def test_nothing_is_set_without_a_profile(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with short_lease():
        assert VARIABLE not in os.environ
    monkeypatch.setenv(VARIABLE, "/there/is/none.xml")
    with short_lease():
        assert os.environ[VARIABLE] == "/there/is/none.xml"
