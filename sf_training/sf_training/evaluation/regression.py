"""Command ``regress``: compare a checkpoint with an earlier one or with baselines."""

from __future__ import annotations

import dataclasses
import json
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape

from sf_policy_node.contract import ContractError, load_contract
from sf_policy_node.vla.checkpoint import CheckpointError
from sf_policy_node.vla.policy import Policy
from sf_training.config_file import parse, print_settings
from sf_training.data.episode_reader import BagError, EpisodeReader
from sf_training.evaluation.chunk_errors import POLICY, EpisodeErrors, episode_errors
from sf_training.evaluation.recorded_episode import RecordedEpisode, open_episodes
from sf_training.evaluation.regression_report import plot_comparison, print_comparison
from sf_training.evaluation.verdict import Comparison, Tolerances, compare
from sf_training.progress import ProgressBar

_FORMAT = 1
_SENTENCES = 12  # shown; all are in the JSON


class RegressionError(ValueError):
    """The comparison cannot be made; the message names the file and the cure."""


@dataclass(frozen=True)
class Arguments:
    """Compare a checkpoint with an earlier one, or with model-free baselines.

    Exit code 0: no regression. 1: a regression, named in the last lines. 2: bad input.

    With --baseline a regression is a column whose mean error grew by more than --tolerance, or an
    episode whose error of one unit (motion, rotation, gripper) grew by more than
    --episode-tolerance; growth below the floors never counts. Without --baseline it is a column for
    which holding position or continuing the motion has a smaller error.

    $ python3 -m sf_training regress --checkpoint out/new --baseline out/old --bags data/kept_aside
    """

    checkpoint: Path
    """Checkpoint directory to evaluate."""
    bags: Path
    """Directory of episode bags, preferably of episodes that neither checkpoint was trained on."""
    baseline: Path | None = None
    """The earlier checkpoint: its directory, or the JSON that regress wrote for it (faster, no
    second model).
    """
    contract: Path | None = None
    """The robot's contract; default the one in the checkpoint."""
    out: Path = Path("out/regress/regress.json")
    """Result as JSON, which a later run can take as --baseline; a plot is written beside it."""
    tolerance: float = 0.05
    """Share by which the mean error of a column may grow."""
    episode_tolerance: float = 0.5
    """Share by which the error of one episode may grow; some scatter is normal."""
    floor_m: float = 0.0005
    """Growth that never counts, of columns in metres."""
    floor_rad: float = 0.005
    """Growth that never counts, of columns in radians."""
    floor_opening: float = 0.01
    """Growth that never counts, of the gripper's opening (0 to 1)."""
    outcomes: tuple[str, ...] = ("success",)
    """Episodes with another outcome are left out."""
    strict: bool = False
    """Stop at the first unusable episode or anomaly; otherwise list and exclude such episodes."""
    batch: int = 32
    """Predictions at once."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto takes a GPU where there is one."""

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"--batch: must be at least 1, got {self.batch}")
        for name in ("tolerance", "episode_tolerance", "floor_m", "floor_rad", "floor_opening"):
            if not getattr(self, name) >= 0:
                raise ValueError(
                    f"--{name.replace('_', '-')}: must not be negative, got {getattr(self, name)}"
                )

    @property
    def tolerances(self) -> Tolerances:
        """The tolerances as one object."""
        floors = {"m": self.floor_m, "rad": self.floor_rad, "opening": self.floor_opening}
        return Tolerances(self.tolerance, self.episode_tolerance, floors)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 1 for a regression, or 2 for bad input."""
    arguments = parse(Arguments, argv, "regress")
    console = Console()
    print_settings(arguments, console)
    try:
        return regress(arguments, console)
    except (BagError, CheckpointError, ContractError, RegressionError, OSError) as error:
        print(f"regress: {error}", file=sys.stderr)
    except Exception:  # Python would exit with 1, which means a regression here
        traceback.print_exc()
    return 2


def regress(arguments: Arguments, console: Console) -> int:
    """Compare, print and write; return the exit code 0 or 1.

    Raises:
        RegressionError: the baseline's file cannot be used, or has no episode in common with the
            bags.
    """
    policy = _load(arguments, arguments.checkpoint)
    earlier = saved = None
    file = arguments.baseline
    if file is not None and file.is_dir():
        earlier = _load(arguments, file)
    elif file is not None:
        saved = _read(file)
    readers = open_episodes(
        arguments.bags, policy.contract, arguments.outcomes, strict=arguments.strict
    )
    now, before, apart = _evaluate(policy, earlier, readers, arguments.batch, console)
    baseline = earlier.policy_id if earlier else None
    if file is not None and saved is not None:
        baseline, before = saved[0], _matching(file, saved[1], now)
    found = compare(policy.contract, now, before, arguments.tolerances)
    picture = arguments.out.with_suffix(".png")
    _write(arguments, policy.policy_id, baseline, now, found)
    print_comparison(policy.contract, policy.policy_id, baseline, found, apart, console)
    plot_comparison(
        policy.contract, policy.policy_id, baseline, found, arguments.tolerances, picture
    )
    console.print(f"result: {arguments.out}   plot: {picture}", soft_wrap=True, highlight=False)
    for sentence in found.regressions[:_SENTENCES]:
        console.print(f"[red]regression:[/] {escape(sentence)}", soft_wrap=True, highlight=False)
    more = len(found.regressions) - _SENTENCES
    if more > 0:
        console.print(f"and {more} more, in {arguments.out}", soft_wrap=True, highlight=False)
    if not found.regressions:
        console.print("no regression")
    return 1 if found.regressions else 0


def _load(arguments: Arguments, checkpoint: Path) -> Policy:
    contract = load_contract(arguments.contract) if arguments.contract else None
    return Policy.load(checkpoint, contract=contract, device=arguments.device)


def _evaluate(
    policy: Policy,
    earlier: Policy | None,
    readers: list[EpisodeReader],
    batch: int,
    console: Console,
) -> tuple[list[EpisodeErrors], list[EpisodeErrors] | None, np.ndarray | None]:
    """Return the errors of both checkpoints, and the mean distance (A,) between their chunks."""
    now, before, apart = [], [], []
    if earlier and not policy.contract.fits(earlier.contract):
        difference = "; ".join(policy.contract.difference(earlier.contract)[:5])
        raise RegressionError(
            f"--baseline: {earlier.policy_id} was trained for another contract ({difference});"
            " compare it on its own bags"
        )
    with ProgressBar("episodes", console=console) as bar:
        for reader in bar.track(readers, total=len(readers)):
            episode = RecordedEpisode.load(reader, policy)
            errors, chunks = episode_errors(policy, episode, batch)
            now.append(errors)
            if earlier is None:
                continue
            same = (policy.config.image_size, policy.config.fit) == (
                earlier.config.image_size,
                earlier.config.fit,
            )
            other, other_chunks = episode_errors(
                earlier, episode if same else RecordedEpisode.load(reader, earlier), batch
            )
            before.append(other)
            apart.append(np.abs(chunks - other_chunks).mean((0, 1)))
    if earlier is None:
        return now, None, None
    return now, before, np.average(apart, axis=0, weights=[each.labels for each in now])


def _read(path: Path) -> tuple[str, list[EpisodeErrors]]:
    """Return policy and errors from a JSON of :func:`_write`."""
    try:
        data = json.loads(path.read_text())
        if data["format"] != _FORMAT:
            raise RegressionError(
                f"{path}: is of format {data['format']}, this version reads {_FORMAT}; make it"
                " again with regress --out"
            )
        return str(data["policy"]), [EpisodeErrors.from_dict(each) for each in data["episodes"]]
    except OSError as error:
        raise RegressionError(
            f"--baseline {path}: cannot be read ({error.strerror}); give a checkpoint directory or"
            " a JSON"
        ) from None
    except (KeyError, TypeError, AttributeError) as error:
        raise RegressionError(
            f"--baseline {path}: is not a result of regress ({error}); make it with regress --out"
        ) from None
    except ValueError as error:
        if isinstance(error, RegressionError):
            raise
        raise RegressionError(
            f"--baseline {path}: is damaged ({error}); make it again with regress --out"
        ) from None


def _matching(
    path: Path, before: list[EpisodeErrors], now: list[EpisodeErrors]
) -> list[EpisodeErrors]:
    """Return the saved errors after a check that they have the same labels."""
    mine = {each.checksum: each for each in now}
    common = [each for each in before if each.checksum in mine]
    if not common:
        raise RegressionError(
            f"--baseline {path}: has no episode in common with these bags; make it with regress on"
            " the same bags"
        )
    for each in common:
        other = mine[each.checksum]
        if each.digest != other.digest or each.errors[POLICY].shape != other.errors[POLICY].shape:
            raise RegressionError(
                f"--baseline {path}: episode {each.name} was compared with other labels (the rules"
                " that make them have changed); give the checkpoint itself, or make the file again"
            )
    return before


def _write(
    arguments: Arguments,
    policy: str,
    baseline: str | None,
    now: list[EpisodeErrors],
    found: Comparison,
) -> None:
    """Write the file that a later run takes as --baseline."""
    data = {
        "format": _FORMAT,
        "policy": policy,
        "baseline": baseline,
        "regressions": list(found.regressions),
        "columns": {
            each.name: {
                "unit": each.unit.name,
                "before": each.before,
                "now": each.now,
                "change_95": each.change_95,
                "worse": each.worse,
            }
            for each in found.columns
        },
        "settings": json.loads(json.dumps(dataclasses.asdict(arguments), default=str)),
        "episodes": [each.to_dict() for each in now],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = arguments.out.with_name(arguments.out.name + ".new")
    temporary.write_text(json.dumps(data, indent=1) + "\n")
    temporary.replace(arguments.out)  # --out may be the --baseline, which is intact until now


if __name__ == "__main__":
    sys.exit(main())
