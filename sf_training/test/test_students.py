"""Tests of students: building from settings, trainable parts, adapters, refused settings."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import student_cases
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from student_cases import (
    BACKBONES,
    CONTRACT,
    SIZES,
    inputs,
    outputs,
    random_statistics,
    student,
    student_settings,
)

from sf_policy_node.vla.backbones.tiny import tiny_pi0, tiny_tokenizer
from sf_policy_node.vla.checkpoint import save_checkpoint
from sf_training.training.lora import part_of
from sf_training.training.students import (
    LoraSettings,
    StudentError,
    StudentSettings,
    build_student,
    merged_copy,
)

ADAPTED = {"train_vision": "lora", "train_language": "lora"}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("backbones")


def pretrained(name: str, folder: Path) -> Path:
    """Return a tiny backbone with weights, as on the Hugging Face hub."""
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(0)
    full = tiny_pi0(columns=12, **SIZES).backbone if name == "pi0" else None
    full = full or AutoModelForImageTextToText.from_config(student_cases.tiny_config(name))
    full.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["smolvlm", "pi0"])
def test_a_student_starts_from_the_weights_in_a_directory(name, tmp_path):
    folder = pretrained(name, tmp_path / name)
    there = load_file(folder / "model.safetensors")
    built = student(name, tmp_path, random_weights=None, weights=folder)
    same = [
        key
        for key, value in there.items()
        if any(torch.equal(value, own) for own in built.model.backbone.state_dict().values())
    ]
    assert len(same) >= len(there) - 1  # hf drops the language head
    assert outputs(built.model.eval(), inputs(built)).shape[:2] == (2, SIZES["horizon"])


def test_a_student_of_kind_nano_is_nano_with_the_sizes_of_the_contract():
    from sf_policy_node.vla.nano import Nano, NanoConfig

    torch.manual_seed(3)
    before = Nano(NanoConfig(**SIZES, width=32, layers=2))
    torch.manual_seed(3)
    built = build_student(StudentSettings(), CONTRACT, width=32, layers=2)
    assert built.model.config == before.config and built.image_size == (96, 96)
    assert all(
        torch.equal(one, other)
        for one, other in zip(before.parameters(), built.model.parameters(), strict=True)
    )


PARTS = ["vision", "language"]
HOW = ["full", "lora", "frozen"]


@settings(max_examples=12, deadline=None)
@given(
    name=st.sampled_from(["llava", "qwen3_vl", "pi0"]),
    vision=st.sampled_from(HOW),
    language=st.sampled_from(HOW),
    expert=st.sampled_from(HOW),
)
def test_each_part_is_trained_as_requested(name, vision, language, expert, root):
    chosen = {
        "train_vision": vision,
        "train_language": language,
        **({"train_expert": expert} if name == "pi0" else {}),
    }
    built = student(name, root, **chosen)
    for key, parameter in built.model.named_parameters():
        how = {"vision": vision, "language": language, "expert": expert, "action": "full"}[
            part_of(built.model, key)
        ]
        if "dit.embed_tokens" in key:  # unused
            how = "frozen"
        assert parameter.requires_grad == (how == "full" or (how == "lora" and ".lora_" in key)), (
            key
        )
    for part, (total, trained) in built.weight_counts().items():
        how = {**chosen, "action": "full"}[part if part == "action" else f"train_{part}"]
        total -= 300 * 32 if part == "expert" else 0  # its text embedding
        assert (trained == total, trained == 0) == {
            "full": (True, False),
            "lora": (False, False),
            "frozen": (False, True),
        }[how]


@pytest.mark.parametrize("name", ["nano", *BACKBONES])
def test_weights_are_counted_without_allocating_them(name, root):
    chosen = (
        student_settings(name, root) if name == "nano" else student_settings(name, root, **ADAPTED)
    )
    counted = build_student(chosen, CONTRACT, meta=True)
    assert all(parameter.is_meta for parameter in counted.model.parameters())
    assert counted.weight_counts() == build_student(chosen, CONTRACT).weight_counts()


def test_a_full_size_backbone_is_counted_quickly(root, tmp_path):
    import transformers

    config = transformers.PaliGemmaConfig(  # PaliGemma-3B
        text_config={
            "model_type": "gemma",
            "hidden_size": 2048,
            "intermediate_size": 16384,
            "num_hidden_layers": 18,
        }
        | {
            "num_attention_heads": 8,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "vocab_size": 257216,
        },
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
        }
        | {
            "num_attention_heads": 16,
            "image_size": 224,
            "patch_size": 14,
            "vision_use_head": False,
        },
        projection_dim=2048,
        image_token_id=257152,
    )
    config.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    built = build_student(StudentSettings(kind="hf", random_weights=tmp_path), CONTRACT, meta=True)
    (language, language_trained), (vision, vision_trained) = (
        built.weight_counts()["language"],
        built.weight_counts()["vision"],
    )
    assert language - language_trained == pytest.approx(
        2.51e9, rel=0.01
    )  # only adapters are trained
    assert vision - vision_trained == pytest.approx(0.415e9, rel=0.01)
    assert built.blocks == 18 and built.image_size == (224, 224)


@torch.no_grad()
@pytest.mark.parametrize("name", ["nano", *BACKBONES])
def test_pixels_of_a_missing_camera_change_no_action(root, name):
    one = student(name, root)
    model, (images, state, text) = one.model.eval(), inputs(one)

    def chunks(pixels, **options):
        context = model.context(pixels, state, text, **options)
        if model.config.head == "regression":
            return model.head(context)
        return model.head.velocity(context, torch.zeros(2, SIZES["horizon"], 12), 0.5)

    for present in (torch.tensor([[True, False]] * 2), torch.tensor([[False, True]] * 2)):
        other = torch.where(present[..., None, None, None], images, 255 - images)
        masked = chunks(images, present=present)
        torch.testing.assert_close(chunks(other, present=present), masked)
        assert torch.isfinite(masked).all()
        assert not torch.allclose(chunks(other), chunks(images), rtol=0, atol=1e-6)
    everything = chunks(images, present=torch.ones(2, 2, dtype=torch.bool))
    torch.testing.assert_close(everything, chunks(images))
    assert model.can_mask_cameras


def test_pi0_uses_less_memory_with_gradient_checkpointing(root):
    def held(saving: bool) -> int:
        built = student("pi0", root)
        if saving:
            built.model.checkpoint_gradients()
        sizes = {}
        pack = lambda value: sizes.setdefault(value.data_ptr(), value.nbytes) and value  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            built.model.train().context(*inputs(built))
        return sum(sizes.values())

    assert held(True) < 0.75 * held(False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"kind": "hf"},
            "--student.weights, --student.random-weights: hf needs one of them, neither is given",
        ),
        ({"kind": "hf", "weights": Path("a"), "random_weights": Path("b")}, "both are given"),
        (
            {"random_weights": Path("a")},
            "--student.random-weights: nano has no such setting; give --student.kind hf or pi0",
        ),
        ({"lora": LoraSettings(rank=4)}, "--student.lora: nano has no such setting"),
        ({"train_vision": "full"}, "--student.train-vision: nano has no such setting"),
        ({"image_size": (1, 2, 3)}, "--student.image-size: give one side, or height and width"),
        (
            {"kind": "hf", "weights": Path("a"), "prompt": "go"},
            "--student.prompt: must hold {instruction}",
        ),
        (
            {"kind": "hf", "weights": Path("a"), "text_tokens": 0},
            "--student.text-tokens: must be at least 1",
        ),
        (
            {"kind": "hf", "weights": Path("a"), "dtype": "bfloat16", "train_vision": "full"},
            "--student.dtype bfloat16: small updates of the vision",
        ),
        (
            {"kind": "pi0", "weights": Path("a"), "dtype": "bfloat16"},
            "--student.dtype bfloat16: pi0's layers",
        ),
    ],
)
def test_incompatible_settings_give_one_sentence(changes, message):
    with pytest.raises(StudentError) as error:
        StudentSettings(**changes)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "layers", "message"),
    [
        (
            {"train_vision": "frozen", "train_language": "frozen"},
            (2,),
            "the language model is frozen and so Spatial Forcing would train",
        ),
        (
            {"train_vision": "frozen"},
            (0,),
            "layer 0 reads what enters its first block and so Spatial Forcing would train nothing",
        ),
    ],
)
def test_settings_without_trainable_weights_for_alignment_are_refused_early(
    changes, layers, message
):
    chosen = StudentSettings(kind="hf", weights=Path("nowhere"), **changes)
    with pytest.raises(StudentError, match=message):
        chosen.check_alignment(layers)
    replace(chosen, train_vision="lora").check_alignment(layers)


@pytest.mark.parametrize(
    "changes",
    [
        {"train_vision": "lora", "train_language": "frozen"},
        {"train_vision": "frozen", "train_language": "lora"},
    ],
)
@pytest.mark.parametrize("name", ["smolvlm", "gemma3", "pi0"])
def test_accepted_settings_get_a_gradient_from_the_tokens(name, changes, root):
    from sf_training.spatial_forcing.student_tokens import StudentTokens

    built = student(name, root, **changes)
    built.check_layers((2,))
    tokens = StudentTokens(built.model, [2], built.model.visual_layout().blocks)
    with tokens.recording():
        built.model.context(*inputs(built))
    tokens[2].sum().backward()
    assert {
        part_of(built.model, key)
        for key, p in built.model.named_parameters()
        if p.grad is not None and p.grad.any()
    } & set(PARTS)


def test_layers_that_the_model_does_not_have_are_named(root):
    with pytest.raises(
        StudentError, match=r"--alignment\.layer 5: the model has 4 blocks, so 0 to 4"
    ):
        student("smolvlm", root).check_layers((2, 5))


def another_depth(folder: Path) -> None:
    change(folder, lambda config: config["text_config"].update(num_hidden_layers=5))


def change(folder: Path, edit) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(config)
    (folder / "config.json").write_text(json.dumps(config))


def wrong_keys(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(
        {f"other.{key}": value for key, value in weights.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: (folder / "config.json").unlink(),
            "no config.json; give the local directory",
        ),
        (
            lambda folder: (folder / "model.safetensors").unlink(),
            r"no \*.safetensors; copy the weights",
        ),
        (
            lambda folder: [path.unlink() for path in folder.glob("tokenizer*")],
            "holds no tokenizer",
        ),
        (wrong_keys, r"weights \d+ missing \(first .*another architecture"),
        (another_depth, r"weights \d+ missing \(first .*another architecture"),
        (
            lambda folder: change(folder, lambda config: config.update(model_type="llama9000")),
            "llama9000",
        ),
    ],
)
def test_unusable_weights_give_one_sentence(damage, message, tmp_path):
    folder = pretrained("smolvlm", tmp_path / "smolvlm")
    damage(folder)
    with pytest.raises(StudentError, match=message) as error:
        student("smolvlm", tmp_path, random_weights=None, weights=folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


@pytest.mark.parametrize("name", ["nano", "smolvlm", "pi0"])
def test_training_continues_from_a_checkpoint(name, root, tmp_path):
    first = student(name, root)
    save_checkpoint(
        tmp_path / "mine",
        first.model,
        CONTRACT,
        random_statistics(first.model.config.text_size),
        {},
    )
    weights = (
        {"weights": tmp_path / "mine"}
        if name == "nano"
        else {"weights": tmp_path / "mine", "random_weights": None, **ADAPTED}
    )
    second = student(name, root, seed=9, **weights)
    batch = inputs(first)
    torch.testing.assert_close(
        outputs(second.model.eval(), batch), outputs(first.model.eval(), batch)
    )
    assert second.model.config == first.model.config
    counted = build_student(second.settings, CONTRACT, meta=True)
    assert (
        all(parameter.is_meta for parameter in counted.model.parameters())
        and counted.weight_counts() == second.weight_counts()
    )


def test_training_continues_in_another_precision(root, tmp_path):
    save_checkpoint(
        tmp_path / "mine", student("llava", root).model, CONTRACT, random_statistics(), {}
    )
    half = student(
        "llava", root, weights=tmp_path / "mine", random_weights=None, dtype="bfloat16", **ADAPTED
    )
    assert (
        next(half.model.backbone.parameters()).dtype is torch.bfloat16
        and half.model.config.dtype == "bfloat16"
    )
    save_checkpoint(tmp_path / "half", merged_copy(half.model), CONTRACT, random_statistics(), {})
    full = student("llava", root, weights=tmp_path / "half", random_weights=None)
    assert next(full.model.backbone.parameters()).dtype is torch.float32


def test_a_checkpoint_that_does_not_fit_the_robot_or_the_settings_is_named(root, tmp_path):
    mine = tmp_path / "mine"
    save_checkpoint(mine, student("llava", root).model, CONTRACT, random_statistics(), {})
    chosen = student_settings("llava", root, weights=mine, random_weights=None)
    with pytest.raises(StudentError, match="holds a hf model; give"):
        build_student(StudentSettings(weights=mine), CONTRACT)
    with pytest.raises(StudentError, match="its head is regression; give --head regression"):
        build_student(chosen, CONTRACT, head="flow")
    longer = CONTRACT.model_copy(
        update={"action": CONTRACT.action.model_copy(update={"horizon": 9})}
    )
    with pytest.raises(StudentError, match=r"is for another robot \(horizon 8, the robot 9\)"):
        build_student(chosen, longer)
    with pytest.raises(StudentError, match="is not a checkpoint of nano"):
        build_student(StudentSettings(weights=tmp_path / "nowhere"), CONTRACT)
    (mine / "contract.yaml").unlink()
    with pytest.raises(StudentError, match="copy all of its files"):
        build_student(chosen, CONTRACT)


def test_weights_of_another_kind_are_named(root, tmp_path):
    folder = pretrained("smolvlm", tmp_path / "smolvlm")
    with pytest.raises(StudentError, match="holds a smolvlm model, not pi0"):
        build_student(StudentSettings(kind="pi0", weights=folder), CONTRACT)
    with pytest.raises(StudentError, match="holds a pi0 model; give kind pi0"):
        build_student(
            StudentSettings(kind="hf", random_weights=student_settings("pi0", root).random_weights),
            CONTRACT,
        )


def test_unsupported_image_sizes_are_named(root):
    with pytest.raises(StudentError, match=r"takes \(56, 56\)"):
        student("paligemma", root, image_size=(64,))
    with pytest.raises(StudentError, match="nano takes square images"):
        student("nano", root, image_size=(64, 96))
    with pytest.raises(StudentError, match="nano: image_size 50"):
        student("nano", root, image_size=(50,))


def test_an_instruction_that_is_too_long_names_the_setting(root):
    with pytest.raises(
        StudentError, match=r"shorten the instruction, or raise --student\.text-tokens"
    ):
        student("smolvlm", root).text_rows(["pick " * 30], random_statistics())
