"""Read settings of a command from YAML files and the command line; typed options win.

```yaml
# run.yaml, for `sf_training train --config run.yaml --steps 20`
data: out/demos
steps: 3000
alignment:
  coefficient: 0.3      # the option --alignment.coefficient
```
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro
import yaml
from rich.console import Console
from rich.table import Table

from sf_policy_node.programs import command

Settings = TypeVar("Settings")
_HINT = (
    "Any of these options can come from a file: --config FILE.yaml (keys as below, nested ones"
    " indented); what is typed wins."
)


class ConfigFileError(ValueError):
    """Raised for an unusable configuration file; the message names file, key and cure."""


def parse(settings: type[Settings], argv: Sequence[str] | None, verb: str) -> Settings:
    """Read a command's settings, a frozen dataclass, from ``argv`` (default: the process's own) and
    from ``--config`` files.

    Bad input ends the process with code 2 and one message, as does ``--help`` with code 0.
    """
    try:
        arguments = with_config(sys.argv[1:] if argv is None else argv, settings)
    except ConfigFileError as error:
        print(f"{verb}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    description = f"{inspect.cleandoc(settings.__doc__ or '')}\n\n{_HINT}".strip()
    return tyro.cli(settings, args=arguments, prog=usage_of(verb), description=description)


def usage_of(verb: str) -> str:
    """Return the command of a verb as it is typed in this installation."""
    return f"{command('sf_training sf_training', 'sf_training')} {verb}"


def with_config(argv: Sequence[str], settings: type | None = None) -> list[str]:
    """Replace ``--config FILE`` by the options of the file, before the typed ones. Of
    several files the last wins.

    A key without a value (null) means None, or the default of a setting that cannot be None. Paths
    in a file are relative to the working directory, as typed ones are.

    Args:
        settings: dataclass of the command; with it, unknown keys are named here.

    Raises:
        ConfigFileError: the file cannot be read, is not a mapping, or holds a key that the command
            does not have.
    """
    files, typed = [], []
    words = iter(argv)
    for word in words:
        if word == "--config":
            path = next(words, None)
            if path is None:
                raise ConfigFileError("--config: needs the path of a YAML file")
            files.append(path)
        elif word.startswith("--config="):
            files.append(word.removeprefix("--config="))
        else:
            typed.append(word)
    known = {} if settings is None else dict(_flags(settings))
    return [word for path in files for word in _options(Path(path), settings)] + _typed_booleans(
        typed, known
    )


def to_yaml(settings: Any) -> str:
    """Return all values of a settings dataclass as text that ``--config`` reads back."""
    return yaml.safe_dump(_plain(dataclasses.asdict(settings)), sort_keys=False, allow_unicode=True)


def print_settings(settings: Any, console: Console, title: str = "settings") -> None:
    """Print every setting with its value, one a line; changed ones are highlighted."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("setting", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("default", style="dim", overflow="fold")
    for name, value, default in _rows(settings):
        shown = _shown(value)
        if default is dataclasses.MISSING:
            table.add_row(name, f"[bold]{shown}[/]", "(required)")
        elif value == default:
            table.add_row(name, shown, "")
        else:
            table.add_row(f"[bold]{name}[/]", f"[bold]{shown}[/]", _shown(default))
    console.print(table)


def _options(path: Path, settings: type | None) -> list[str]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigFileError(
            f"{path}: cannot be read ({error.strerror}); check --config"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigFileError(
            f"{path}: is not YAML ({' '.join(str(error).split())}); correct it"
        ) from None
    if data is None:
        return []
    if not isinstance(data, Mapping):
        raise ConfigFileError(f"{path}: must hold `key: value` lines, got {type(data).__name__}")
    known = None if settings is None else dict(_flags(settings))
    return [
        word for key, value in _flat(data, "", path) for word in _option(key, value, known, path)
    ]


def _typed_booleans(words: Sequence[str], known: Mapping[str, Any]) -> list[str]:
    """Turn ``--flag True`` and ``--flag=False`` into ``--flag`` and ``--no-flag``, the forms that
    tyro takes for a bool.
    """
    found, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.removeprefix("--").replace("_", "-").partition("=")
        if word.startswith("--") and known.get(name) is bool:
            following = value if equals else rest[0] if rest else ""
            choice = {"true": True, "false": False}.get(following.lower())
            if choice is not None:
                rest = rest if equals else rest[1:]
                word = _flag(name, choice)
        found.append(word)
    return found


def _flag(name: str, value: bool) -> str:
    group, _, last = name.rpartition(".")
    return f"--{name}" if value else f"--{group}{'.' * bool(group)}no-{last}"


def _flat(data: Mapping, prefix: str, path: Path) -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if not isinstance(key, str):
            raise ConfigFileError(
                f"{path}: key {key!r} must be a word; put it in quotes if it is one"
            )
        name = f"{prefix}{key.replace('_', '-')}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.", path)
        else:
            yield name, value


def _option(key: str, value: Any, known: Mapping[str, Any] | None, path: Path) -> list[str]:
    if known is not None and key not in known:
        near = difflib.get_close_matches(key, known, 1)
        hint = f"did you mean {near[0]}?" if near else "see --help for those there are"
        raise ConfigFileError(f"{path}: no setting is called {key}; {hint}")
    if value is None and known is not None and type(None) not in get_args(known[key]):
        return []  # this setting cannot be None: its default applies
    if isinstance(value, bool) and (known is None or known[key] is bool):
        return [_flag(key, value)]
    if isinstance(value, list):
        if any(isinstance(item, (list, dict)) for item in value):
            raise ConfigFileError(f"{path}: {key} must be a list of plain values")
        return [f"--{key}", *map(_word, value)]
    # joined, so that a value with a leading dash is not parsed as an option
    return [f"--{key}={_word(value)}"]


def _word(value: Any) -> str:
    return "None" if value is None else str(value)


def _flags(settings: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Return dotted option names of a dataclass and of nested ones."""
    hints = get_type_hints(settings)
    for field in dataclasses.fields(settings):
        if not field.init:
            continue
        name = f"{prefix}{field.name.replace('_', '-')}"
        nested = _dataclass_of(hints[field.name])
        if nested:
            yield from _flags(nested, f"{name}.")
        else:
            yield name, hints[field.name]


def _dataclass_of(hint: Any) -> type | None:
    choices = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    found = (each for each in choices if isinstance(each, type) and dataclasses.is_dataclass(each))
    return next(found, None)


def _rows(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        name = f"{prefix}{field.name.replace('_', '-')}"
        if dataclasses.is_dataclass(value):
            yield from _rows(value, f"{name}.")
        elif field.default_factory is not dataclasses.MISSING:
            yield name, value, field.default_factory()
        else:
            yield name, value, field.default


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value.value if isinstance(value, Enum) else value


def _shown(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return " ".join(map(str, value)) or "(none)"
    text = str(value.value if isinstance(value, Enum) else value)
    return (text or '""').replace("[", r"\[")
