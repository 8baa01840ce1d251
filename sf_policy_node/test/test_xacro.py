"""Tests of contracts whose URDF is a xacro file, with the real program, where it is installed."""

import re
import shutil

import pytest
import yaml
from arm_pair import APART, pair, pair_data
from motion_cases import CONTRACT_PATH

from sf_policy_node.contract import ContractError, load_contract

pytestmark = pytest.mark.skipif(
    shutil.which("xacro") is None, reason="the program xacro is not installed"
)
_ROBOT = '<robot name="pair" xmlns:xacro="http://www.ros.org/wiki/xacro">'


@pytest.fixture
def folder(tmp_path):
    """Return a folder with the pair as one macro in an included file."""
    body = re.search(
        r"<robot[^>]*>(.*)</robot>", CONTRACT_PATH.with_suffix(".urdf").read_text(), re.DOTALL
    )
    arm = re.sub(r'((?:name|link|joint)=")', r"\1${prefix}", body.group(1))
    (tmp_path / "one arm").mkdir()
    (tmp_path / "one arm" / "arm.xacro").write_text(
        f'{_ROBOT}<xacro:macro name="arm" params="prefix side:=1">{arm}'
        '<joint name="${prefix}stand" type="fixed"><parent link="world"/>'
        f'<child link="${{prefix}}base_link"/><origin xyz="0 ${{side * {APART}}} 0"/></joint>'
        "</xacro:macro></robot>"
    )
    (tmp_path / "pair.urdf.xacro").write_text(
        f'{_ROBOT}<xacro:include filename="one arm/arm.xacro"/><link name="world"/>'
        '<xacro:arm prefix="left_"/><xacro:arm prefix="$(arg second)" side="-1"/></robot>'
    )
    return tmp_path


def load(folder, urdf):
    path = folder / "pair.yaml"
    path.write_text(yaml.safe_dump(pair_data() | {"urdf": urdf}))
    return load_contract(path)


def test_includes_macros_and_arguments_give_the_model_of_the_plain_urdf(folder):
    contract = load(folder, "pair.urdf.xacro second:=right_")
    assert contract.urdf == "pair.urdf" and contract.hash == pair().hash


def test_a_missing_argument_is_named(folder):
    with pytest.raises(ContractError, match=r"xacro failed \(.*argument second, when .*: arm "):
        load(folder, "pair.urdf.xacro")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("<link></robot>", "XML parsing error: mismatched tag: line 1, column .*, when .*"),
        ("<xacro:leg/></robot>", "unknown macro name: xacro:leg, when .*"),
        ('<link name="${x}"/></robot>', "name 'x' is not defined, when .* 'x', when .*"),
    ],
)
def test_an_error_is_quoted_with_its_place(folder, body, reason):
    (folder / "broken.xacro").write_text(_ROBOT + body)
    sentence = rf"broken\.xacro: xacro failed \({reason}broken\.xacro\); correct"
    with pytest.raises(ContractError, match=sentence):
        load(folder, "broken.xacro")
