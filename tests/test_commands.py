"""The command line as a whole; what each command does is tested where its subject is."""

import importlib.metadata
import pkgutil

import pytest
from processes import finished, python

from sb3_spiking import commands


def test_every_module_is_a_command():
    modules = {module.name for module in pkgutil.iter_modules(commands.__path__)}
    assert modules - {"arguments"} == set(commands.COMMANDS)


def said(arguments, capsys):
    """How a command ends and what it prints."""
    with pytest.raises(SystemExit) as end:
        commands.main(arguments)
    output = capsys.readouterr()
    return end.value.code, output.out, output.err


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_help_has_an_example(name, capsys):
    code, output, _ = said([name, "--help"], capsys)
    assert code == 0
    assert output.startswith(f"usage: sb3-spiking {name}")
    assert f"    sb3-spiking {name} " in output


def test_help_lists_all(capsys):
    code, output, _ = said(["--help"], capsys)
    assert code == 0
    for name, what in {**commands.COMMANDS, **commands.ZOO_COMMANDS}.items():
        assert name in output
        assert what in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["evaluat"], "invalid choice: 'evaluat'"),
        (["evaluate", "--episodes", "1.5"], "--episodes: 1.5: expected a whole number of at least 1"),
        (["evaluate", "--episodes", "²"], "--episodes: ²: expected a whole number of at least 1"),
        (["evaluate", "--n-envs", "0"], "--n-envs: 0: expected a whole number of at least 1"),
        (["evaluate", "--seed", "1", "4001"], "--seed: 4001: expected 0 to 4000"),
        (["evaluate", "--seed", "1.5"], "--seed: 1.5: expected 0 to 4000"),
        (["robustness", "--epsilon", "nan"], "--epsilon: nan: expected 0 to 1"),
        (["convert", "--percentile", "100.1"], "--percentile: 100.1: expected above 0, up to 100"),
        (["convert", "--episodes", "1"], "--episodes: 1: expected a whole number of at least 2"),
        (["export"], "one of the arguments --to --check is required"),
        (["export", "--to", "loihi"], "--to: invalid choice: 'loihi'"),
        (["export", "--to", "onnx", "--approximate"], "--approximate: it goes with --to nir"),
        (["resume"], "the following arguments are required: folder"),
    ],
)
def test_wrong_arguments_take_one_line(arguments, message, capsys):
    code, output, error = said(arguments, capsys)
    assert (code, output) == (2, "")
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    assert message in error


def test_both_names_are_one(tmp_path):
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="sb3-spiking")
    assert entry.load() is commands.main
    assert finished(python("-m", "sb3_spiking", "--help", folder=tmp_path)).startswith("usage: sb3-spiking")
