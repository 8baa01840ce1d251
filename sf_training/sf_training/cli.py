"""Run the verbs of the package, from episodes to a checkpoint.

Usage: ``ros2 run sf_training sf_training VERB``, or ``python3 -m sf_training VERB``.
"""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sf_policy_node.programs import command

# Verb: module and one line. The module has main(argv) -> int, or the function named after a #
# colon; it is imported only when its verb is called.
GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "Episodes": {
        "demonstrations": (
            "sf_training.simulation.demonstrations",
            "record episodes of the simulated arm, by a scripted expert",
        ),
        "lint": (
            "sf_training.lint.command",
            "check episodes: rates, gaps, skew, dead joints, duplicates; HTML report",
        ),
        "stats": (
            "sf_training.data.stats",
            "count episodes, frames and instructions, and show the range of every column",
        ),
        "view": (
            "sf_training.view.command",
            "show an episode as HTML or MP4: cameras, joints, timeline",
        ),
        "recover": (
            "sf_training.recording.recover.recovery",
            "complete a recording that was interrupted",
        ),
        "verify": (
            "sf_training.recording.recover.verification",
            "compare episodes with the checksums of their recording",
        ),
        "relabel": (
            "sf_training.recording.edit.command:relabel",
            "set outcome, instruction (or several in time) or note of episodes",
        ),
        "trim": (
            "sf_training.recording.edit.command:trim",
            "copy a part of an episode to a new one",
        ),
        "split": (
            "sf_training.recording.edit.command:split",
            "copy an episode in parts to several new ones",
        ),
        "merge": (
            "sf_training.recording.edit.command:merge",
            "copy episodes that follow each other to one new one",
        ),
        "replay": (
            "sf_training.teleoperation.replay_node",
            "send an episode to the robot again, through the guard",
        ),
        "lerobot": (
            "sf_training.lerobot.command",
            "export episodes to a LeRobot v3 dataset, or import one",
        ),
    },
    "Training": {
        "cache": (
            "sf_training.training.cache_features",
            "compute the teacher's features before training",
        ),
        "train": (
            "sf_training.training.train",
            "fine-tune a model on episodes, with Spatial Forcing",
        ),
        "layers": (
            "sf_training.training.layers",
            "choose the layer to align: CKA with the teacher, cosine of the losses' gradients",
        ),
        "teacher": (
            "sf_training.spatial_forcing.teacher_view",
            "list teachers, or show the features of one for a frame",
        ),
        "report": (
            "sf_training.training.report",
            "compare runs: with Spatial Forcing, without, and controls",
        ),
    },
    "Checkpoints": {
        "evaluate": (
            "sf_training.simulation.evaluate",
            "measure success in the simulator, or errors on held-out episodes (--bags)",
        ),
        "libero-serve": (
            "sf_training.evaluation.libero_server",
            "serve a published LIBERO policy over openpi's protocol, for libero_client.py",
        ),
        "probe": (
            "sf_training.spatial_forcing.probe",
            "measure how much depth the visual tokens hold",
        ),
        "regress": (
            "sf_training.evaluation.regression",
            "compare a checkpoint with the operator and with an earlier one",
        ),
        "export": (
            "sf_training.training.export",
            "write a smaller, checked directory for the robot",
        ),
        "convert": (
            "sf_training.training.convert",
            "convert published weights to a checkpoint: pi0, pi0.5, OpenVLA-OFT",
        ),
    },
}
VERBS = {verb: entry for group in GROUPS.values() for verb, entry in group.items()}

_SILENCE_S = 5.0  # a terminal shows a line when loading takes longer


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None and (not words or {"-h", "--help", "help"} & set(words)):
        # The reader of a help text may stop early: `… --help | head`.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0 if words else 2
    verb, arguments = words[0], words[1:]
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, 1)
        hint = f"did you mean {near[0]}?" if near else "`sf_training --help` lists the verbs"
        print(f"sf_training: there is no verb {verb!r}; {hint}", file=sys.stderr)
        return 2
    try:
        name, _, function = VERBS[verb][0].partition(":")
        with _line_when_loading_is_slow(verb):
            run = getattr(importlib.import_module(name), function or "main")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("sf_training"):
            raise
        print(
            f"{verb}: the Python module {error.name} is missing; run `source docker/env.sh` or your"
            " ROS 2 setup first",
            file=sys.stderr,
        )
        return 2
    try:
        code = run(arguments) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of a result may stop early, too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print(f"{verb}: interrupted", file=sys.stderr)
        return 130


@contextmanager
def _line_when_loading_is_slow(verb: str) -> Iterator[None]:
    """Print one line to a terminal if the context takes longer than ``_SILENCE_S``.

    The first import of PyTorch and transformers reads hundreds of megabytes from the disk.
    """

    def report() -> None:
        print(f"{verb}: loading its Python packages", file=sys.stderr, flush=True)

    timer = threading.Timer(_SILENCE_S, report)
    timer.daemon = True
    if sys.stderr.isatty():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def help_text() -> str:
    """Return all verbs with one line each, grouped by task."""
    width = max(map(len, VERBS)) + 2
    program = command("sf_training sf_training", "sf_training")
    lines = [
        f"usage: {program} VERB [OPTIONS]",
        f"       {program} VERB --help      lists the options of a verb",
    ]
    for title, verbs in GROUPS.items():
        lines += [
            "",
            f"{title}:",
            *(f"  {verb:{width}}{line}" for verb, (_, line) in verbs.items()),
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
