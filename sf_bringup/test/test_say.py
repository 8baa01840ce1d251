"""Tests of the command line of ``python3 -m sf_bringup.say``, without a graph."""

import sys

import pytest

from sf_bringup import say


class Client:
    def close(self):
        pass


@pytest.fixture
def said(monkeypatch):
    """Return a function that runs the command and returns its client's robot and its arguments."""

    def run(*words):
        found = []

        def client_of(*graph):
            found.append(graph)
            return Client()

        monkeypatch.setattr(sys, "argv", ["say", *words])
        monkeypatch.setattr(say, "client_of", client_of)
        monkeypatch.setattr(say, "run", lambda client, arguments, console: found.append(arguments))
        say.main()
        return found

    return run


def test_words_are_written_as_for_the_other_commands(said):
    graph, arguments = said(
        "pick the red cube", "robot:=so101", "namespace:=left", "seconds:=3", "seed:=4"
    )
    assert graph == ("so101", "left")
    assert arguments == said(
        "--robot", "so101", "--namespace", "left", "--seconds", "3", "--seed", "4",
        "pick the red cube",
    )[1]  # fmt: skip
    assert (arguments.instruction, arguments.seconds, arguments.seed) == ("pick the red cube", 3, 4)


def test_an_instruction_with_an_assignment_in_it_stays_text(said):
    text = "write x:=1 on the board"
    assert said(text, "robot:=so101")[1].instruction == text


def test_an_unknown_word_is_refused(said, capsys):
    with pytest.raises(SystemExit):
        said("pick the red cube", "robbot:=so101")
    assert "robbot" in capsys.readouterr().err
