"""Command ``convert``: published weights of pi0, pi0.5 or OpenVLA-OFT to a checkpoint."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from sf_policy_node.contract import ContractError, load_contract
from sf_policy_node.perception.robot_state import state_names
from sf_policy_node.vla.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from sf_policy_node.vla.normalisation import Spread
from sf_training.config_file import parse, print_settings
from sf_training.training.published_statistics import StatisticsError, read_statistics
from sf_training.training.students import StudentError, StudentSettings, build_student

_CHUNK = ("chunk_size", "action_horizon")  # LeRobot's and openpi's name


@dataclass(frozen=True)
class Arguments:
    """Convert published weights to a checkpoint.

    Every tensor is mapped; missing and left over ones are listed.

    The contract names the cameras, joints and action columns of the weights, in the order in which
    they were trained. `export` halves the size of the result.

    $ python3 -m sf_training convert --kind pi05 --weights pi05_libero
      --contract robot.yaml --out out/pi05
    """

    weights: Path
    """Directory of the published weights, with the tokenizer's files."""
    contract: Path
    """The robot's contract."""
    out: Path
    """Checkpoint directory to write; must not exist."""
    kind: Literal["pi0", "pi05", "openvla_oft", "hf"] = "pi0"
    """Model kind of the weights. pi0 and pi05: in openpi's PyTorch, LeRobot's or (pi0)
    transformers' layout.
    """
    statistics: Path | None = None
    """File or directory of the statistics; None is the directory of the weights."""
    dataset: str = ""
    """Name of the statistics, where a file or directory has several."""
    normalisation: Spread | None = None
    """Which of the published values are used; None is deviation for pi0 and quantiles for the
    others, as their authors train.
    """
    test_crop: float = 0.9
    """For openvla_oft: share of the image area that the policy sees."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = parse(Arguments, argv, "convert")
    console = Console()
    print_settings(arguments, console)
    try:
        for line in convert(arguments):
            console.print(line, soft_wrap=True, highlight=False)
    except (CheckpointError, ContractError, StatisticsError, StudentError, OSError) as error:
        sys.exit(f"convert: {error}")
    return 0


def convert(arguments: Arguments) -> list[str]:
    """Write the checkpoint, load it again, and return lines for the user.

    Raises:
        StudentError: weights are missing, left over or of another size.
        StatisticsError: there are no statistics for the contract's columns.
        CheckpointError: the target exists or cannot be written.
    """
    if arguments.out.exists():
        raise CheckpointError(f"{arguments.out}: exists already; choose another --out")
    contract = load_contract(arguments.contract)
    spread = arguments.normalisation or ("deviation" if arguments.kind == "pi0" else "quantiles")
    normalisation, file = read_statistics(
        arguments.statistics or arguments.weights,
        spread,
        len(state_names(contract)),
        len(contract.action.names),
        arguments.dataset,
    )
    oft = arguments.kind == "openvla_oft"
    settings = StudentSettings(
        kind=arguments.kind,
        weights=arguments.weights,
        text_tokens=64 if oft else None,
        test_crop=arguments.test_crop if oft else 1.0,
    )
    model = build_student(
        dataclasses.replace(settings, train_vision="frozen", train_language="frozen"), contract
    ).model
    notes = {
        "converted": json.loads(json.dumps(dataclasses.asdict(arguments), default=str)),
        "statistics": str(file),
    }
    save_checkpoint(arguments.out, model.eval(), contract, normalisation, notes)
    checkpoint = load_checkpoint(arguments.out)
    count = sum(each.numel() for each in checkpoint.model.parameters())
    lines = [
        (
            f"{arguments.out}: {arguments.kind}, {count / 1e6:.1f} million weights, nothing"
            f" missing, nothing left over; statistics ({spread}) of {file}"
        ),
        f"cameras, in this order: {', '.join(contract.camera_names)}",
        f"state: {', '.join(state_names(contract))}",
        (
            f"action: {', '.join(contract.action.names)}; units and gripper sense are not in the"
            " weights: compare them with the publisher's"
        ),
    ]
    return lines + _horizon(arguments.weights, contract.action.horizon)


def _horizon(weights: Path, horizon: int) -> list[str]:
    path = weights / "config.json"
    values = json.loads(path.read_text()) if path.is_file() else {}
    trained = next((values[name] for name in _CHUNK if name in values), horizon)
    if trained == horizon:
        return []
    return [
        (
            f"warning: trained on chunks of {trained} steps, the contract's horizon is {horizon};"
            " fine-tune the checkpoint, or use the same horizon"
        )
    ]


if __name__ == "__main__":
    sys.exit(main())
