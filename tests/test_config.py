"""The config on the command line, in files and in JSON."""

import dataclasses
import json
import os
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from jaxgen.config import Config, load, parse
from jaxgen.core.errors import UserError
from jaxgen.core.options import _as_asked
from jaxgen.core.serial import differences, from_json, subclasses, to_json
from jaxgen.data.clips import FieldIn, HashFraction
from jaxgen.data.folder import Folder
from jaxgen.data.synthetic import PluckedStrings
from jaxgen.evaluation.audio_metric import AudioMetric
from jaxgen.features import LogMel
from jaxgen.models.config import ModelConfig
from jaxgen.models.mel_rnn import MelRNN
from jaxgen.models.wave_gan import ShuffleCritic
from jaxgen.models.wave_rnn import WaveRNN
from jaxgen.nn.distributions import Distribution, Normal
from jaxgen.nn.recurrent import GRU, LSTM, RGLRU, RNN, Cell, MinGRU, MinLSTM
from jaxgen.objectives.adversarial import Adversarial
from jaxgen.recipes.presets import load_config, quickstart


def _parsed(*args: str) -> Config:
    return parse(Config, quickstart(), args, "test")


def test_options_override_single_values():
    config = _parsed("--train.steps", "7", "--model.cell.hidden-size=32", "--train.log-every", "3", "--train.seed", "9")
    assert (config.train.steps, config.train.log_every, config.train.seed) == (7, 3, 9)
    assert config.model == dataclasses.replace(quickstart().model, cell=LSTM(hidden_size=32))
    assert config.features == quickstart().features


def test_a_class_is_swapped_by_name_and_keeps_common_values():
    config = _parsed("--model.cell", "GRU", "--model.cell.hidden-size", "12", "--model.distribution", "Normal")
    assert config.model.cell == GRU(hidden_size=12)
    assert config.model.distribution == Normal()
    wave = _parsed("--model", "WaveRNN", "--features", "MuLaw", "--model.embedding-size", "5")
    assert isinstance(wave.model, WaveRNN)
    assert (wave.model.embedding_size, wave.model.labels) == (5, quickstart().model.labels)
    assert wave.features.sample_rate == 8_000


def test_a_class_that_is_swapped_in_keeps_no_value_of_another_kind():
    """Both critics have channels, but one number and one for each layer."""
    config = dataclasses.replace(quickstart(), objective=Adversarial())
    assert parse(Config, config, ["--objective.critic", "ShuffleCritic"], "test").objective.critic == ShuffleCritic()


@pytest.mark.parametrize("cell", [MinGRU, MinLSTM, RGLRU])
def test_every_cell_is_a_choice(cell):
    config = _parsed("--model.cell", cell.__name__, "--model.cell.hidden-size", "12")
    assert config.model.cell == cell(hidden_size=12)


def test_a_cell_of_the_users_own_is_a_choice():
    class Halving(RNN):
        pass

    Halving.__module__ = "config"  # as that of a file which is no package
    config = _parsed("--model.cell", "Halving")
    assert config.model.cell == Halving(hidden_size=quickstart().model.cell.hidden_size)


def test_abstract_classes_are_no_choice():
    with pytest.raises(UserError, match=r"model\.cell is 'LinearCell', expected one of .*LSTM.*, RNN") as mistake:
        _parsed("--model.cell", "LinearCell")
    assert "LinearCell" not in str(mistake.value).partition("expected")[2]


def test_without_arguments_it_is_the_quickstart():
    config = load_config([], "test")
    assert config == dataclasses.replace(quickstart(), workdir="runs/quickstart")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--model.plan.input-noise", "-1"),
        ("--model.samples.context.window", "0"),
        ("--model.samples.frame-sizes", "0"),
        ("--train.seed", "-1"),
    ],
)
def test_a_mistake_in_a_part_of_a_model_names_its_option(option, value):
    with pytest.raises(UserError, match=rf"^{option} is {value}"):
        parse(Config, load(Path(__file__).parent.parent / "configs" / "digits_sample.py"), [option, value], "test")


KNOWN = (
    "--model.plan.dropout",
    "--model.plan.size",
    "--model.samples.size",
    "--train.size",
    "--model.a.b",
    "--model.x.a.b",
)


@pytest.mark.parametrize(
    ("message", "asked", "says"),
    [
        ("--model.dropout and --model.size", "--model.plan.dropout", "--model.plan.dropout and --model.plan.size"),
        ("--train.size", "--model.plan.size", "--train.size"),  # there is such an option
        ("--model.size", "--model.plan.size --model.samples.size", "--model.size"),  # which, nobody knows
        ("--model.size", "--model.plan.dropout", "--model.size"),
        ("--model.lost and --model.a.b", "--model.x.a.b --nowhere.lost", "--model.lost and --model.a.b"),
    ],
)
def test_options_in_messages_are_those_asked(message, asked, says):
    assert _as_asked(message, KNOWN, asked.split()) == says


@pytest.mark.parametrize("option", ["--objective.optimizer.clip-norm", "--evaluation.sampling.voiced-sharpness"])
def test_numbers_that_no_array_holds_are_refused(option):
    with pytest.raises(UserError, match=rf"^{option} is .*too large"):
        _parsed(option, "1e39")
    vocoder = load(Path(__file__).parent.parent / "configs" / "digits_vocoder.py")
    with pytest.raises(UserError, match=r"^--objective\.terms\.0\.weight is .*too large"):
        parse(Config, vocoder, ["--objective.terms.0.weight", "1e39"], "test")


def test_a_property_is_no_option():
    config = load(Path(__file__).parent.parent / "configs" / "digits_sample.py")
    with pytest.raises(UserError, match=r"unknown option --model\.samples\.context\.hop"):
        parse(Config, config, ["--model.samples.context.hop", "7"], "test")


def test_a_folder_gets_its_own_rate_and_workdir(tmp_path):
    from jaxgen import audio

    audio.write(tmp_path / "a.wav", PluckedStrings(seconds=0.1).clips()[0].load().samples[:, 0], 16_000)
    config = load_config(["--data.root", str(tmp_path)], "test")
    assert config.data == Folder(root=str(tmp_path))
    assert config.features.sample_rate == 16_000
    assert config.workdir == f"runs/{tmp_path.name}"


def test_a_config_file_is_python(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from jaxgen.config import *\nfrom jaxgen.recipes.presets import quickstart\n"
        "import dataclasses\nCONFIG = dataclasses.replace(quickstart(), objective=Likelihood(ema_decay=0.5))\n"
    )
    config = load_config(["--config", str(file), "--train.steps", "3"], "test")
    assert config.objective.ema_decay == 0.5
    assert (config.train.steps, config.workdir) == (3, "runs/mine")


@pytest.mark.parametrize(
    ("text", "said"),
    [("x = 1\n", "defines no CONFIG"), ("a = 1\nb = c\n", "line 2, cannot be run: NameError"), ("a b", "SyntaxError")],
)
def test_a_config_file_that_cannot_be_used(tmp_path, text, said):
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(UserError, match=said):
        load(tmp_path / "bad.py")


CONFIGS = [
    quickstart(),
    Config(
        data=Folder(root="x", pattern="{digit}_{index}", validation=FieldIn("index", range(3)), test=HashFraction(0.2)),
        features=LogMel(sample_rate=8_000, n_fft=256, hop_length=80, n_mels=20),
        model=MelRNN(cell=RNN(hidden_size=3, activation="relu"), labels=("digit",), distribution=Normal()),
    ),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_json_round_trip(config):
    assert from_json(json.loads(json.dumps(to_json(config))), Config, "it") == config


def test_json_of_another_installation():
    unknown = to_json(quickstart()) | {"model": {"class": "Gone"}}
    with pytest.raises(UserError, match=r"model\.class is \"Gone\", expected a class that derives from ModelConfig"):
        from_json(unknown, Config, "it")


def test_saved_names_of_classes_survive_a_move_and_mean_one_class():
    """Runs say `MelRNN`, not where it is defined."""
    assert to_json(quickstart())["model"]["class"] == "MelRNN"
    hints = typing.get_type_hints(Config).values()
    bases = [hint for hint in hints if dataclasses.is_dataclass(hint)] + [Cell, Distribution, AudioMetric, ModelConfig]
    for base in bases:
        names = [cls.__name__ for cls in subclasses(base) if cls.__module__.startswith("jaxgen.")]
        assert len(names) == len(set(names)) > 0


def test_differences_name_the_path_and_both_values():
    asked = _parsed("--train.steps", "5", "--model.cell", "GRU", "--workdir", "elsewhere")
    found = differences(quickstart(), asked, frozenset({"workdir"}))
    assert found == ["model.cell=LSTM (asked: GRU)", f"train.steps={quickstart().train.steps} (asked: 5)"]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HOME": "/home/me"}, "~/.cache/jaxgen"),
        ({"HOME": "/home/me", "XDG_CACHE_HOME": "/big"}, "/big/jaxgen"),
        ({"HOME": "/home/me", "XDG_CACHE_HOME": "/home/me/big"}, "~/big/jaxgen"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="each platform has a place of its own")
def test_caches_are_where_the_platform_puts_them(variables, expected):
    environment = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"} | variables
    line = [sys.executable, "-c", "from jaxgen.core.names import CACHE_DIR; print(CACHE_DIR)"]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == expected


def test_a_config_may_import_what_is_beside_it_and_hides_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "beside_a_config.py").write_text("STEPS = 7\n")
    (tmp_path / "colorsys.py").write_text("raise RuntimeError('hides a module of Python')\n")
    (tmp_path / "mine.py").write_text(
        "import colorsys, dataclasses\nfrom beside_a_config import STEPS\nfrom jaxgen.recipes.presets import quickstart\n"
        "CONFIG = quickstart()\nCONFIG = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, steps=STEPS))\n"
    )
    assert load(tmp_path / "mine.py").train.steps == 7


def test_help_says_first_what_most_people_change(capsys):
    with pytest.raises(SystemExit):
        load_config(["--help"], "jaxgen.train")
    first, _, parts = capsys.readouterr().out.partition("Below are all options")
    start = quickstart()
    for option, value in {
        "--train.steps": start.train.steps,
        "--model.cell.hidden-size": start.model.cell.hidden_size,
        "--model.labels": " ".join(start.model.labels),
    }.items():
        assert f"  {option} {value} " in first
        assert f" {option} " in parts
    assert (
        first.index("--config ")
        < first.index("--data.root ")
        < first.index("--workdir ")
        < first.index("--train.steps ")
    )


def test_help_of_another_model_leaves_out_what_it_has_not(capsys):
    with pytest.raises(SystemExit):
        load_config(
            ["--config", str(Path(__file__).parent.parent / "configs" / "digits_gan.py"), "--help"], "jaxgen.train"
        )
    first, _, _ = capsys.readouterr().out.partition("Below are all options")
    assert "digits_gan.py" in first
    assert "--train.steps " in first
    assert "hidden-size" not in first
