"""Command ``export``: a smaller checkpoint for the robot, compared with the original."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from sf_policy_node.contract import Contract, ContractError, load_contract
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.vla.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from sf_policy_node.vla.policy import Policy
from sf_training.config_file import parse, print_settings
from sf_training.data.episode_reader import BagError
from sf_training.evaluation.chunk_errors import units
from sf_training.evaluation.recorded_episode import RecordedEpisode, open_episodes

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SENTENCE = "pick up the object"
_SUMS = "SHA256SUMS"


class ExportError(ValueError):
    """The checkpoint cannot be exported; the message says why and what to do."""


@dataclass(frozen=True)
class Arguments:
    """Export a trained checkpoint for the robot.

    Weights take half the space, there is no training report, and checksums are added.

    The export is loaded again and must predict the same chunks as the original, within --limit;
    otherwise nothing is written. The robot computes in the same precision as before; only the
    stored weights change.

    $ python3 -m sf_training export --checkpoint out/my_policy --out out/for_the_robot --bags B
    """

    checkpoint: Path
    """Checkpoint directory."""
    out: Path
    """Directory to write; must not exist."""
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Dtype in which wider matrices are stored; norms and biases do not change. float16 is
    closer to the original than bfloat16 where the weights fit its range (which is checked);
    float32 changes nothing.
    """
    contract: Path | None = None
    """The robot's contract, whose limits go into the export; default the one in the checkpoint."""
    bags: Path | None = None
    """Episodes whose observations are used for the comparison; without them it uses random
    images, which is a weaker test.
    """
    observations: int = 64
    """Number of chunks to compare."""
    limit: float = 0.02
    """Largest difference of a chunk's value from the original's, as a share of the spread of its
    column in the training data.
    """

    def __post_init__(self) -> None:
        if self.observations < 1:
            raise ValueError(f"--observations: must be at least 1, got {self.observations}")
        if not self.limit >= 0:
            raise ValueError(f"--limit: must not be negative, got {self.limit}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = parse(Arguments, argv, "export")
    console = Console()
    print_settings(arguments, console)
    try:
        export(arguments, console)
    except (BagError, CheckpointError, ContractError, ExportError, OSError) as error:
        sys.exit(f"export: {error}")
    return 0


def export(arguments: Arguments, console: Console) -> None:
    """Write the export to a temporary directory, compare it, and then move it into place.

    Raises:
        ExportError: the target exists, a weight is too large for the dtype, or chunks differ too
            much.
    """
    if arguments.out.exists():
        raise ExportError(f"{arguments.out}: exists already; choose another --out, or delete it")
    checkpoint = load_checkpoint(
        arguments.checkpoint, load_contract(arguments.contract) if arguments.contract else None
    )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=arguments.out.parent, prefix=f".{arguments.out.name}."
    ) as temporary:
        fresh = Path(temporary) / arguments.out.name
        notes = _notes(arguments, checkpoint)
        save_checkpoint(
            fresh,
            _stored(checkpoint.model, _DTYPES[arguments.dtype]),
            checkpoint.contract,
            checkpoint.normalisation,
            notes,
        )
        difference = _check(arguments, checkpoint, fresh, console)
        notes["exported"]["largest_difference"] = difference
        config = json.loads((fresh / "config.json").read_text()) | {"training": notes}
        (fresh / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        # Readable for all: another user may run the robot.
        for path in fresh.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        (fresh / _SUMS).write_text(_sums(fresh))
        shutil.move(fresh, arguments.out)
    before, after = (
        _size(path / "model.safetensors") for path in (arguments.checkpoint, arguments.out)
    )
    console.print(
        f"{arguments.out}: weights {after / 1e6:.1f} MB, {before / 1e6:.1f} MB before; check a copy"
        f" with `sha256sum -c {_SUMS}` inside it",
        soft_wrap=True,
        highlight=False,
    )


def _stored(model: Any, dtype: torch.dtype) -> Any:
    """Return a copy with its matrices in ``dtype``, where that is narrower.

    Raises:
        ExportError: a weight is too large for the dtype.
    """
    smaller = copy.deepcopy(model)
    for name, parameter in smaller.named_parameters():
        if parameter.ndim < 2 or parameter.dtype.itemsize <= dtype.itemsize:
            continue
        values = parameter.data.to(dtype)
        if not torch.isfinite(values).all():
            raise ExportError(
                f"weight {name} is too large for {str(dtype).removeprefix('torch.')}; take --dtype"
                " bfloat16 or float32"
            )
        parameter.data = values
    return smaller


def _notes(arguments: Arguments, checkpoint: Checkpoint) -> dict:
    training = json.loads((arguments.checkpoint / "config.json").read_text()).get("training", {})
    settings = json.loads(json.dumps(asdict(arguments), default=str))
    return training | {
        "exported": {"from": checkpoint.identity, "dtype": arguments.dtype, "settings": settings}
    }


def _check(
    arguments: Arguments, checkpoint: Checkpoint, fresh: Path, console: Console
) -> dict[str, float]:
    """Return the largest difference by column, in units of the contract; print a table.

    Raises:
        ExportError: one is above the limit.
    """
    contract, columns = checkpoint.contract, checkpoint.contract.action.names
    original = Policy(checkpoint.model, contract, checkpoint.normalisation, device="cpu")
    exported = Policy.load(fresh, contract=contract, device="cpu")
    found, source = _observations(arguments, original)
    one, other = (
        [policy.predict_prepared(*part) for part in found] for policy in (original, exported)
    )
    difference = np.abs(np.concatenate(one) - np.concatenate(other))
    largest, spread = difference.max((0, 1)), checkpoint.normalisation.action.std
    table = Table(title=f"exported beside original, {len(difference)} chunks on {source}")
    for column in ("column", "unit", "mean difference", "largest", "share of spread"):
        table.add_column(
            column, justify="left" if column in ("column", "unit") else "right", no_wrap=True
        )
    for index, (name, unit) in enumerate(zip(columns, units(contract), strict=True)):
        mean, worst = (
            f"{value * unit.factor:.3f}"
            for value in (difference[..., index].mean(), largest[index])
        )
        table.add_row(name, unit.shown, mean, worst, f"{largest[index] / spread[index]:.3f}")
    console.print(table)
    share = largest / spread
    if not (share <= arguments.limit).all():
        outlier = int(np.argmax(share))
        raise ExportError(
            f"column {columns[outlier]}: chunks differ by up to {share[outlier]:.3f} of its spread,"
            f" --limit is {arguments.limit:g}; take --dtype"
            f" {'float16 or ' if arguments.dtype == 'bfloat16' else ''}float32, or a higher --limit"
            " if the difference does not matter on the arm"
        )
    return {name: float(value) for name, value in zip(columns, largest, strict=True)}


def _observations(
    arguments: Arguments, policy: Policy
) -> tuple[list[tuple[np.ndarray, np.ndarray, list[str]]], str]:
    """Return batches of images, joint positions and instructions, and their origin."""
    wanted = arguments.observations
    if arguments.bags is None:
        return _random_observations(policy, wanted), "random images"
    readers = open_episodes(arguments.bags, policy.contract, ("success", "failure"))
    chosen = [
        readers[index]
        for index in np.unique(np.linspace(0, len(readers) - 1, min(8, len(readers))).astype(int))
    ]
    found = []
    for reader in chosen:
        episode = RecordedEpisode.load(reader, policy)
        labels = np.unique(
            np.linspace(0, len(episode.frame) - 1, -(-wanted // len(chosen))).astype(int)
        )
        frames = episode.frame[labels]
        found.append(
            (
                episode.images[frames],
                episode.joints[frames],
                [episode.texts[label] for label in labels],
            )
        )
    return found, f"{len(chosen)} recorded episodes"


def _random_observations(
    policy: Policy, count: int
) -> list[tuple[np.ndarray, np.ndarray, list[str]]]:
    contract, size = policy.contract, policy.config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    rng = np.random.default_rng(0)
    found = []
    for start in range(0, count, 16):
        number = min(16, count - start)
        # Blocks of one colour instead of noise, so that patches differ as in camera images.
        coarse = rng.integers(0, 256, (number, len(contract.cameras), 3, 8, 8), dtype=np.uint8)
        rows, columns = np.arange(height) * 8 // height, np.arange(width) * 8 // width
        found.append(
            (
                coarse[..., rows[:, None], columns[None, :]],
                _random_joints(contract, rng, number),
                [_SENTENCE] * number,
            )
        )
    return found


def _random_joints(contract: Contract, rng: np.random.Generator, count: int) -> np.ndarray:
    limits = JointLimits.of(contract)
    return rng.uniform(limits.lower, limits.upper, (count, len(limits.names)))


def _sums(folder: Path) -> str:
    lines = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                lines.append(
                    f"{hashlib.file_digest(file, 'sha256').hexdigest()} "
                    f" {path.relative_to(folder)}\n"
                )
    return "".join(lines)


def _size(path: Path) -> int:
    return path.stat().st_size


if __name__ == "__main__":
    sys.exit(main())
