"""Tests of the command line: verbs, fast help, and settings from YAML files."""

import dataclasses
import io
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import tyro
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import sf_training
from sf_policy_node.ros_testing import PATIENCE_S
from sf_training import cli
from sf_training.cli import VERBS, main
from sf_training.config_file import ConfigFileError, parse, print_settings, to_yaml, with_config


@dataclass(frozen=True)
class Inner:
    weight: float = 0.5
    mask: bool = True
    layers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Chosen:
    """Settings of these tests."""

    data: Path
    """Where."""
    steps: int = 10
    learning_rate: float = 1e-3
    head: Literal["a", "b"] = "a"
    contract: Path | None = None
    note: str = ""
    names: tuple[str, ...] = ("x",)
    fast: bool = False
    inner: Inner = field(default_factory=Inner)


def written(tmp_path: Path, text: str, name: str = "run.yaml") -> str:
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def test_typed_options_override_the_file_in_any_order(tmp_path):
    file = written(
        tmp_path,
        "data: out/demos\nsteps: 300\nlearning_rate: 1e-4\ninner:\n  weight: 0.25\n  layers: [1,"
        " -1]\n",
    )
    chosen = parse(Chosen, ["--steps", "7", "--config", file, "--inner.no-mask"], "train")
    assert chosen == Chosen(
        Path("out/demos"), steps=7, learning_rate=1e-4, inner=Inner(0.25, False, (1, -1))
    )


@pytest.mark.parametrize(
    ("typed", "fast", "mask"),
    [
        ("--fast True --inner.mask False", True, False),
        ("--fast=true --inner.mask=false", True, False),
        ("--fast False --inner.no-mask", False, False),
        ("--no-fast --inner.mask", False, True),
    ],
)
def test_a_flag_takes_true_or_false_too(typed, fast, mask):
    chosen = parse(Chosen, ["--data", "d", *typed.split(), "--note", "True"], "train")
    assert (chosen.fast, chosen.inner.mask, chosen.note) == (fast, mask, "True")


def test_the_last_of_two_files_wins(tmp_path):
    files = [
        f"--config={written(tmp_path, text, name)}"
        for name, text in (("a", "data: a\nsteps: 1"), ("b", "steps: 2"), ("c", ""))
    ]
    assert parse(Chosen, files, "train") == Chosen(Path("a"), steps=2)


words = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=12)


@settings(deadline=None, max_examples=40)
@given(
    st.builds(
        Chosen,
        data=words.filter(lambda text: text not in ("", "None")).map(Path),
        steps=st.integers(-9, 9),
        learning_rate=st.floats(allow_nan=False),
        head=st.sampled_from(["a", "b"]),
        contract=st.none() | st.just(Path("robot.yaml")),
        note=words,
        names=st.lists(words.filter(lambda text: not text.startswith("-")), max_size=3).map(tuple),
        fast=st.booleans(),
        inner=st.builds(
            Inner,
            st.floats(0, 1),
            st.booleans(),
            st.lists(st.integers(-9, 9), max_size=3).map(tuple),
        ),
    )
)
def test_saved_settings_are_read_back_as_they_were(tmp_path_factory, chosen):
    file = written(tmp_path_factory.mktemp("config"), to_yaml(chosen))
    assert parse(Chosen, ["--config", file], "train") == chosen


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: a\nstep: 3", "no setting is called step; did you mean steps?"),
        (
            "data: a\ninner:\n  wieght: 3",
            "no setting is called inner.wieght; did you mean inner.weight?",
        ),
        ("data: a\nsteps:\n  many: 3", "no setting is called steps.many"),
        ("data: a\nqqq: 3", "no setting is called qqq; see --help for those there are"),
        ("- data", "must hold `key: value` lines, got list"),
        ("data: [", "is not YAML"),
        ("3: 4", "key 3 must be a word"),
        ("names: [[a]]", "names must be a list of plain values"),
    ],
)
def test_a_file_that_does_not_fit_is_named_with_the_key(tmp_path, capsys, text, message):
    file = written(tmp_path, text)
    with pytest.raises(SystemExit) as ended:
        parse(Chosen, ["--config", file], "train")
    assert ended.value.code == 2
    output = capsys.readouterr().err
    assert (
        output.startswith(f"train: {file}: ")
        and message in output
        and len(output.splitlines()) == 1
    )


def test_a_missing_file_or_path_is_named():
    with pytest.raises(
        ConfigFileError,
        match=r"nowhere.yaml: cannot be read \(No such file or directory\); check --config",
    ):
        with_config(["--config", "nowhere.yaml"])
    with pytest.raises(ConfigFileError, match="--config: needs the path of a YAML file"):
        with_config(["--data", "a", "--config"])


def test_a_value_of_the_wrong_type_is_refused_with_the_option(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(Chosen, ["--config", written(tmp_path, "data: a\nsteps: many")], "train")
    assert ended.value.code == 2
    assert "--steps" in capsys.readouterr().err


def test_every_setting_is_printed_and_changes_show_their_default():
    console = Console(width=120, record=True, file=io.StringIO())
    print_settings(Chosen(Path("out/[1]"), steps=7, inner=Inner(layers=(1, 2))), console)
    lines = {
        line.split()[0]: line.split()[1:]
        for line in console.export_text().splitlines()
        if line.strip()
    }
    assert lines["data"] == ["out/[1]", "(required)"]
    assert lines["steps"] == ["7", "10"]
    assert lines["inner.layers"] == ["1", "2", "(none)"]
    assert lines["learning-rate"] == ["0.001"]
    assert len([name for name in lines if name not in ("settings", "setting")]) == 11


def test_training_settings_survive_a_file(tmp_path):
    from sf_training.training.settings import Settings

    chosen = Settings(data=Path("a"), out=Path("b"), teacher="none", layers=3)
    flat = yaml.safe_load(to_yaml(chosen))
    assert flat["layers"] == 3 and flat["alignment"]["coefficient"] == chosen.alignment.coefficient
    assert parse(Settings, ["--config", written(tmp_path, to_yaml(chosen))], "train") == chosen


def test_help_lists_every_verb_without_loading_torch():
    code = (
        "import sys; from sf_training.cli import main; code = main(['--help']); print('torch' in"
        " sys.modules); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0 and done.stdout.endswith("False\n")
    for verb, (_, line) in VERBS.items():
        assert f"  {verb} " in done.stdout and line in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_an_unknown_verb_is_named_and_a_missing_one_prints_usage(capsys):
    assert main(["trian"]) == 2
    assert "there is no verb 'trian'; did you mean train?" in capsys.readouterr().err
    assert main([]) == 2
    assert "sf_training VERB [OPTIONS]" in capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_module(verb):
    module, _, function = VERBS[verb][0].partition(":")
    path = Path(sf_training.__file__).parents[1] / (module.replace(".", "/") + ".py")
    assert path.exists()
    assert (
        f"def {function or 'main'}(argv: Sequence[str] | None = None) -> int:" in path.read_text()
    )  # not imported: a node needs ROS


@pytest.mark.parametrize(
    ("words", "unbuffered"), [("--help", ""), ("train --help", ""), ("train --help", "1")]
)
def test_a_closed_pipe_is_no_error(words, unbuffered):
    """`sf_training train --help | head -1`"""
    command = f"set -o pipefail; {sys.executable} -m sf_training {words} | true"
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=PATIENCE_S, env=environment
    )
    assert (done.stderr, done.returncode) == ("", 128 + signal.SIGPIPE)


def test_tyro_parses_the_settings_of_the_tests():
    assert tyro.cli(Chosen, args=["--data", "a"]) == Chosen(Path("a"))
    assert dataclasses.is_dataclass(Inner)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_shows_a_line_while_a_verb_loads_slowly(monkeypatch, capsys, is_terminal):
    printed = []

    def load(name):
        timers = [each for each in threading.enumerate() if isinstance(each, threading.Timer)]
        for timer in timers:  # reading while it prints would lose the line
            timer.join(PATIENCE_S)
        if not is_terminal:
            time.sleep(0.1)
        printed.append(capsys.readouterr().err)
        return type("Module", (), {"main": staticmethod(lambda arguments: 0)})

    monkeypatch.setattr(cli, "_SILENCE_S", 0.02)
    monkeypatch.setattr(cli.importlib, "import_module", load)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    assert main(["train"]) == 0
    assert printed == (["train: loading its Python packages\n"] if is_terminal else [""])
    assert not capsys.readouterr().err
