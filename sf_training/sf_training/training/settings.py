"""Settings of a training run; they are printed at the start and saved with the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from sf_policy_node.contract import ColumnKind, Layout
from sf_policy_node.vla.normalisation import Spread
from sf_training.data.dataset import IDLE_S
from sf_training.data.opening import VERDICTS
from sf_training.spatial_forcing.alignment import AlignmentConfig
from sf_training.spatial_forcing.cache_format import CacheFormat
from sf_training.spatial_forcing.presets import PresetName, preset
from sf_training.spatial_forcing.teachers import TeacherName
from sf_training.spatial_forcing.vision_targets import Control
from sf_training.training.batches.augmentation import AugmentationName
from sf_training.training.recipes import RecipeName
from sf_training.training.student_settings import StudentError, StudentSettings

if TYPE_CHECKING:
    from sf_training.training.students import Student

_VISION = ("vggt", "da3", "hf")
_NANO_CHANNELS = 128
_DEFAULT_PRESET: dict[str, PresetName] = {
    "hf": "openvla",
    "pi0": "paper_pi0",
    "pi05": "paper_pi0",
    "openvla_oft": "openvla",
}
_NANO_GRIPPER_WEIGHT = 0.3  # its values -1 and 1 are far larger than the error of a displacement


class TrainingError(ValueError):
    """A setting or the data cannot be used; the message names it and the cure."""


@dataclass(frozen=True)
class Settings:
    """Fine-tune a model on recorded episodes, with Spatial Forcing or a control.

    $ python3 -m sf_training train --data out/demos --out out/nano
    $ python3 -m sf_training train --data out/demos --out out/vla
      --student.kind hf --student.weights MODEL --teacher vggt --teacher-weights VGGT
    $ torchrun --nproc_per_node=2 -m sf_training train --config run.yaml
    """

    data: tuple[Path, ...]
    """Directory of episode bags; several may be given, all of one robot."""
    out: Path
    """Checkpoint directory to write."""
    contract: Path | None = None
    """The robot's contract, whose limits closed-loop evaluations and the checkpoint use; default
    the one in the bags.
    """
    teacher: TeacherName = "pointmap"
    """Source of the alignment targets; none trains with the action loss alone."""
    student: StudentSettings = field(default_factory=StudentSettings)
    """The model to train."""
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    """The alignment loss; ignored with teacher none."""
    recipe: RecipeName | None = None
    """Settings of the complete run as the paper's authors trained; options given beside it
    override, and the difference is printed.
    """
    preset: PresetName | None = None
    """Named alignment settings, in proportion to the number of the model's blocks;
    --alignment... options override it. None is openvla for hf and openvla_oft (no token
    shift, letterbox bars masked) and paper_pi0 for pi0 and pi05; nano has no preset.
    """
    teacher_weights: str = ""
    """For vggt, da3 and hf: a file, a directory or a hub id. Their licence is shown."""
    teacher_size: int = 0
    """For vggt, da3 and hf: longer side of the teacher's input images [pixels]; 0: as it was
    trained.
    """
    teacher_device: str = "auto"
    """For vggt, da3 and hf: device of the teacher; auto takes a GPU if there is one."""
    teacher_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """For vggt, da3 and hf; auto takes bfloat16 on a GPU, float32 elsewhere."""
    teacher_channels: int | None = None
    """For vggt, da3 and hf: channels of the targets at most, along principal directions; the
    lost cosine is shown. 0 keeps all; None is 128 for nano, whose training step would take 15
    times as long with VGGT's 2048, and all for other models.
    """
    cache_format: CacheFormat | Literal["none"] = "float16"
    """Format of the features of vggt, da3 and hf that are cached beside the data: int8 takes
    half the space of the others; the lost cosine is shown. none runs the teacher in every
    step instead.
    """
    control: Control = "none"
    """Replace the teacher by a control of the same width without geometry."""
    seed: int = 0
    """Of the weights and of the order of the data."""
    steps: int = 3000
    """Optimiser steps."""
    pairs: int = 6
    """Frames in a batch with two different instructions each (contrastive relabelling)."""
    singles: int = 4
    """Frames in a batch with one instruction, from the frames that have only one."""
    accumulate: int = 1
    """Micro-batches into which each process splits its share of a batch: less memory, the same
    step.
    """
    precision: Literal["no", "bf16"] = "no"
    """bf16: matrix products in bfloat16, weights in their own dtype."""
    checkpoint_gradients: bool = False
    """Recompute activations in the backward pass: less memory, more time (not for nano)."""
    fsdp: bool = False
    """Shard weights, gradients and optimiser states over the processes (FSDP2; not for nano);
    otherwise each process holds all of them.
    """
    optimizer: Literal["auto", "muon", "adamw"] = "auto"
    """muon: on the matrices of nano's blocks and of the projector, AdamW on all other weights.
    auto: muon for nano, adamw for other models.
    """
    learning_rate: float | None = None
    """Peak after the warm-up; None is 2e-3 for nano and 1e-4 for other models."""
    warm_up: int = 60
    """Steps over which the learning rate rises."""
    warm_up_from: float = 0.0
    """Learning rate at the start of the warm-up, as a share of the peak."""
    schedule: Literal["linear", "cosine", "multistep"] = "linear"
    """Decay of the learning rate: linear or cosine over the last --decay-share of the steps, or
    multistep at --milestones.
    """
    decay_share: float = 0.3
    """For linear and cosine: share of the steps, at the end, over which the learning rate
    decays; 0 keeps it constant.
    """
    decay_end: int = 0
    """For linear and cosine: step at which the decay ends; 0 is the last step."""
    floor: float = 0.0
    """For linear and cosine: learning rate after the decay, as a share of the peak."""
    milestones: tuple[int, ...] = ()
    """For multistep: steps after which the learning rate is multiplied by --milestone-factor."""
    milestone_factor: float = 0.1
    """For multistep."""
    weight_decay: float = 0.02
    """Of both optimisers."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the first and second moment."""
    clip: float = 1.0
    """Maximum norm of the gradient, projector included; 0 does not clip."""
    gripper_weight: float | None = None
    """Weight of the gripper column in the action loss; None is 0.3 for nano and 1 for other
    models, as their authors train them.
    """
    normalisation: Spread = "deviation"
    """Of states and actions. deviation: zero mean and unit standard deviation. quantiles: the 1
    % and 99 % quantiles map to -1 and 1.
    """
    ema: float = 0.99
    """Decay of the moving average of the weights, which is validated and saved; 0: the weights
    themselves.
    """
    width: int = 96
    """For nano: width of the transformer."""
    layers: int = 4
    """For nano: blocks of the transformer."""
    head: Literal["regression", "flow"] = "regression"
    """regression predicts actions directly; flow generates them from noise by flow matching,
    which real-time chunking needs.
    """
    augmentation: AugmentationName = "none"
    """Random changes of the training images, with OpenVLA-OFT's or openpi's ranges; ..._colour
    leaves crops out. Crops need a teacher that runs in every step (--cache-format none) and
    so sees the same crop, or no teacher.
    """
    data_weights: tuple[float, ...] = ()
    """Relative share of the batches for each directory of --data; none given: all frames have
    equal probability.
    """
    share: float = 1.0
    """Share of the training episodes that is used, chosen by episode; validation episodes stay
    the same.
    """
    validation_share: float = 0.08
    """Share of the episodes held out for validation, chosen by episode."""
    strict: bool = False
    """Stop at an episode that cannot be used or has an irregularity; otherwise it is reported,
    and left out if it cannot be used.
    """
    verdicts: tuple[str, ...] = VERDICTS
    """Verdicts of the recorder to use; episodes with another verdict are left out. FAIL among
    them uses all episodes.
    """
    idle_s: float = IDLE_S
    """During a pause of the operator, labels are made for this time [s]."""
    cache_images: bool = True
    """Save prepared images beside the data: faster from the second pass on, for disk space."""
    read_ahead: int = 2
    """Batches that a thread reads ahead; 0 reads them in the loop."""
    workers: int = 0
    """Processes that decode images, each a batch at a time; 0 decodes in the thread above."""
    validate_every: int = 200
    """Steps between two validations (action error, and instruction accuracy)."""
    evaluate_every: int = 0
    """Steps between two closed-loop evaluations in the simulator; 0: no evaluation."""
    evaluation_episodes: int = 40
    """Episodes of each closed-loop evaluation, half with 2 cubes and half with 3; seeds from
    900000.
    """
    stop_at: float = 0.0
    """Stop when an evaluation reaches this success rate; 0 never stops early."""
    save_every: int = 200
    """Steps between two saves of the state; after a kill the run resumes from the last one."""
    wandb: str = ""
    """Project of Weights & Biases for the curves, beside tensorboard; needs `pip install wandb`."""
    threads: int = 1
    """Threads of PyTorch. One uses the least processor time; results are equal only for equal
    numbers.
    """

    def __post_init__(self) -> None:
        if isinstance(self.data, (str, Path)):
            object.__setattr__(self, "data", (Path(self.data),))
        self._check_data()
        for name in (
            "steps",
            "validate_every",
            "save_every",
            "threads",
            "evaluation_episodes",
            "accumulate",
        ):
            if getattr(self, name) < 1:
                raise TrainingError(
                    f"--{name.replace('_', '-')}: must be at least 1, got {getattr(self, name)}"
                )
        for name in ("warm_up", "weight_decay", "read_ahead", "workers", "pairs", "singles"):
            if getattr(self, name) < 0:
                raise TrainingError(
                    f"--{name.replace('_', '-')}: must not be negative, got {getattr(self, name)}"
                )
        if self.teacher_channels is not None and (
            self.teacher_channels < 0 or self.teacher_channels % 4
        ):
            raise TrainingError(
                "--teacher-channels: must be a multiple of 4, or 0 for all, got"
                f" {self.teacher_channels}"
            )
        if not self.pairs + self.singles:
            raise TrainingError("--pairs, --singles: one must be above zero, got 0 and 0")
        if not 0 < self.validation_share < 1:
            raise TrainingError(
                f"--validation-share: must lie between 0 and 1, got {self.validation_share}"
            )
        if not 0 <= self.decay_share <= 1:
            raise TrainingError(f"--decay-share: must lie between 0 and 1, got {self.decay_share}")
        if not 0 <= self.ema < 1:
            raise TrainingError(f"--ema: must be at least 0 and below 1, got {self.ema}")
        if not self.clip >= 0:
            raise TrainingError(f"--clip: must be above 0, or 0 to clip nothing, got {self.clip}")
        if not 0 < self.share <= 1:
            raise TrainingError(f"--share: must be above 0 and at most 1, got {self.share}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise TrainingError(f"--betas: each must be at least 0 and below 1, got {self.betas}")
        if self.gripper_weight is not None and not self.gripper_weight >= 0:
            raise TrainingError(
                f"--gripper-weight: must not be negative, got {self.gripper_weight}"
            )
        self._check_schedule()
        self._check_augmentation()
        if self.evaluate_every < 0 or self.evaluate_every % self.validate_every:
            raise TrainingError(
                f"--evaluate-every: must be a multiple of --validate-every {self.validate_every},"
                f" got {self.evaluate_every}"
            )
        if self.stop_at and not self.evaluate_every:
            raise TrainingError(
                f"--stop-at {self.stop_at:g}: needs --evaluate-every for the success rate"
            )
        self._check_kind()
        self._check_teacher()
        if self._nano:
            self.alignment_of(self.layers)  # raises if the alignment does not fit

    @property
    def rate(self) -> float:
        """Peak of the learning rate."""
        return (
            self.learning_rate if self.learning_rate is not None else (2e-3 if self._nano else 1e-4)
        )

    @property
    def weight_of_grippers(self) -> float:
        """Weight of a gripper column in the action loss."""
        if self.gripper_weight is not None:
            return self.gripper_weight
        return _NANO_GRIPPER_WEIGHT if self._nano else 1.0

    def column_weights(self, columns: Layout) -> list[float]:
        """Return the weight of each action column in the action loss."""
        gripper = self.weight_of_grippers
        return [gripper if column.kind is ColumnKind.GRIPPER else 1.0 for column in columns]

    @property
    def channels(self) -> int:
        """Maximum number of channels of a vision teacher's targets; 0 keeps all."""
        if self.teacher_channels is not None:
            return self.teacher_channels
        return _NANO_CHANNELS if self._nano else 0

    @property
    def uses_muon(self) -> bool:
        """Whether matrices are trained by Muon."""
        return self.optimizer == "muon" or (self.optimizer == "auto" and self._nano)

    @property
    def _nano(self) -> bool:
        return self.student.kind == "nano"

    @property
    def chosen_preset(self) -> PresetName | None:
        """The given preset, or else the model's; nano has none."""
        return self.preset or _DEFAULT_PRESET.get(self.student.kind)

    def alignment_of(self, blocks: int) -> AlignmentConfig:
        """Return the complete alignment settings for a model with ``blocks`` blocks.

        Raises:
            TrainingError: the model has no such layer.
            AlignmentError: the settings do not fit together.
        """
        chosen, given = self.chosen_preset, self.alignment.given
        if chosen and not self.uses_vision_teacher:
            given["teacher_layers"] = (-1,)
        config = preset(chosen, blocks, **given) if chosen else self.alignment.complete()
        if self.teacher != "none" and (deepest := max(config.student_layers)) > blocks:
            name = "layers" if config.layers else "layer"
            raise TrainingError(f"--alignment.{name}: the model has {blocks} blocks, got {deepest}")
        return config

    def resolved(self, student: Student) -> Self:
        """Return these settings with every choice made that depends on the model.

        These are alignment, preset, optimiser, learning rate, weight of the gripper and channels
        of the teacher; the alignment without a teacher too.

        Raises:
            TrainingError: the model has no such layer.
            StudentError: the alignment would train nothing.
        """
        config = self.alignment_of(student.blocks)
        if self.teacher != "none":
            student.check_layers(config.student_layers)
        return replace(
            self,
            alignment=config,
            preset=self.chosen_preset,
            optimizer="muon" if self.uses_muon else "adamw",
            learning_rate=self.rate,
            gripper_weight=self.weight_of_grippers,
            teacher_channels=self.channels,
        )

    @property
    def uses_vision_teacher(self) -> bool:
        """Whether the teacher is a vision model with weights."""
        return self.teacher in _VISION

    def _check_data(self) -> None:
        if not self.data:
            raise TrainingError("--data: give at least one directory")
        weights = self.data_weights
        if weights and (
            len(weights) != len(self.data)
            or not all(0 < weight < float("inf") for weight in weights)
        ):
            given = " ".join(f"{weight:g}" for weight in weights)
            raise TrainingError(
                f"--data-weights {given}: needs one number above 0 for each of {len(self.data)}"
                " directories of --data"
            )

    def _check_augmentation(self) -> None:
        if self.augmentation not in ("openvla", "openpi") or self.teacher == "none":
            return
        if not (self.uses_vision_teacher and self.cache_format == "none"):
            reason = (
                "are cached"
                if self.uses_vision_teacher
                else f"of teacher {self.teacher} are of full images"
            )
            cure = "give --cache-format none, or" if self.uses_vision_teacher else "take"
            raise TrainingError(
                f"--augmentation {self.augmentation}: crops need targets of the same crop, but the"
                f" features {reason}; {cure} --augmentation {self.augmentation}_colour"
            )

    def _check_schedule(self) -> None:
        for name in ("warm_up_from", "floor"):
            if not 0 <= getattr(self, name) <= 1:
                raise TrainingError(
                    f"--{name.replace('_', '-')}: must lie between 0 and 1, got"
                    f" {getattr(self, name)}"
                )
        if self.decay_end < 0:
            raise TrainingError(f"--decay-end: must not be negative, got {self.decay_end}")
        if (self.schedule == "multistep") != bool(self.milestones):
            found = "none" if not self.milestones else " ".join(map(str, self.milestones))
            raise TrainingError(
                f"--schedule {self.schedule}, --milestones {found}: multistep needs milestones, the"
                " others take none (--milestones without values)"
            )
        if any(milestone < 1 for milestone in self.milestones) or not self.milestone_factor > 0:
            raise TrainingError(
                "--milestones, --milestone-factor: milestones must be at least 1, the factor"
                " above 0"
            )

    def _check_kind(self) -> None:
        kind = self.student.kind
        if self._nano:
            for name in ("fsdp", "checkpoint_gradients"):
                if getattr(self, name):
                    raise TrainingError(
                        f"--{name.replace('_', '-')}: nano does not support it; leave it out,"
                        " or take another --student.kind"
                    )
            return
        if kind == "pi05" and self.normalisation != "quantiles":
            raise TrainingError(
                "--normalisation deviation: pi05 encodes each state value in 256 bins from -1 to"
                " 1; give --normalisation quantiles"
            )
        if kind == "openvla_oft" and self.head != "regression":
            raise TrainingError(
                f"--head {self.head}: openvla_oft has its own regression head; leave it out"
            )
        if self.optimizer == "muon":
            raise TrainingError(f"--optimizer muon: is for nano; take adamw for {kind}")
        default = {each.name: each.default for each in fields(Settings)}
        for name in ("width", "layers"):
            if getattr(self, name) != default[name]:
                raise TrainingError(
                    f"--{name}: is for nano; the size of {kind} is that of its weights"
                )

    def _check_teacher(self) -> None:
        if self.teacher == "none":
            if self.control != "none":
                raise TrainingError(
                    f"--control {self.control}: a control replaces a teacher; give --teacher"
                )
            return
        try:
            self.student.check_alignment(self.alignment.student_layers)
        except StudentError as error:
            raise TrainingError(str(error)) from None
        if not self.uses_vision_teacher and self.cache_format != "float16":
            raise TrainingError(
                f"--cache-format {self.cache_format}: teacher {self.teacher} has no cache; it is"
                " for vggt, da3 and hf"
            )
        if self.uses_vision_teacher and not self.teacher_weights:
            raise TrainingError(
                f"--teacher-weights: teacher {self.teacher} needs a file, a directory or a hub id"
            )
        if not self.uses_vision_teacher and self.teacher_weights:
            raise TrainingError(
                f"--teacher-weights: teacher {self.teacher} has none; take --teacher vggt, da3"
                " or hf"
            )
        if not self.uses_vision_teacher and self.alignment.target_layers != (-1,):
            raise TrainingError(
                f"--alignment.teacher-layers: teacher {self.teacher} has one layer; leave it out"
            )
        if self.control != "none" and self.teacher not in ("pointmap", *_VISION):
            raise TrainingError(
                f"--control {self.control}: teacher {self.teacher} is a control itself; leave"
                " it out"
            )
