"""Files in configs/: shrunk to seconds, trained on real recordings, and sampled."""

import ast
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import SHRUNK, SHRUNK_GAN, SHRUNK_PLAN, SHRUNK_SCORES, SHRUNK_VOCODER, nightly

from jaxgen import audio
from jaxgen.cli import generate, train
from jaxgen.config import Config, load
from jaxgen.data.folder import Folder
from jaxgen.data.synthetic import SyntheticDataset
from jaxgen.evaluation import classifier_training, latent_evaluation
from jaxgen.inference import latent
from jaxgen.models.planned_rnn import PlannedRNN
from jaxgen.models.sequence import SequenceConfig
from jaxgen.models.vocoder import Vocoder
from jaxgen.recipes.presets import any_sound
from jaxgen.scores.compose.tunes import compose_tune
from jaxgen.scores.files import read_scores
from jaxgen.scores.midi import write_midi
from jaxgen.scores.score import crop, select_tracks

pytestmark = pytest.mark.slow

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))
SCORES = [file for file in CONFIGS if load(file).features.is_symbolic]
SEQUENCES = [file for file in CONFIGS if isinstance(load(file).model, SequenceConfig) and file not in SCORES]


@pytest.fixture(scope="session")
def digits(recordings, tmp_path_factory) -> Path:
    """A few real recordings of each digit: validation has the indices 5 to 9."""
    folder = tmp_path_factory.mktemp("digits")
    for path in sorted(recordings.glob("fsdd/**/*.wav")):
        _, speaker, index = path.stem.split("_")
        if speaker in ("jackson", "theo") and index in ("5", "10", "11"):
            shutil.copy(path, folder)
    assert len(list(folder.iterdir())) == 60
    return folder


def _shrunk(config: Config) -> list[str]:
    """Options that shrink the training of a config to seconds."""
    if isinstance(config.model, SequenceConfig):
        shrunk = SHRUNK_PLAN if isinstance(config.model, PlannedRNN) else SHRUNK
        return [*shrunk, "--train.seq-len", str(max(16, config.model.stride))]
    if isinstance(config.model, Vocoder):
        return [*SHRUNK_VOCODER]
    steps = config.model.num_steps
    return [*SHRUNK_GAN, "--model.factors", str(steps // config.model.first_steps), "--train.seq-len", str(steps)]


IN_THE_GATE = ("digits_mel", "digits_wave")


@pytest.mark.parametrize(
    "file",
    [file if file.stem in IN_THE_GATE else nightly(file) for file in CONFIGS if file not in SCORES],
    ids=lambda path: path.stem,
)
def test_a_config_trains_and_a_model_generates(file, digits, cache, command, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier_training, "_MOST_HEARD", 1)
    for module in (latent, latent_evaluation):
        monkeypatch.setattr(module, "BATCH", 4)
    workdir, config = tmp_path / "run", load(file)
    data = ["--data.root", digits]
    if isinstance(config.data, SyntheticDataset):
        data = ["--data.num-clips", "30", "--data.seconds", "0.5"]
    asked = ["--config", file, *data, *_shrunk(config), "--workdir", workdir, "--cache-dir", cache]
    assert command(train.main, *asked)[0] == 0
    steps = [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 4]
    metrics = json.loads((workdir / "report.json").read_text())["metrics"]
    assert all(np.isfinite(value) for value in metrics.values() if value is not None)
    if isinstance(config.model, Vocoder):
        return
    wanted = ["--label", "digit=3"] if "digit" in config.model.labels else []
    wanted += ["--seconds", "0.2"] if file in SEQUENCES else ["--interpolate", "2"]
    code, _, _ = command(generate.main, "--workdir", workdir, "--num", "2", *wanted)
    assert code == 0
    for wav in (workdir / "generated" / "seed_0").glob("*.wav"):
        assert np.isfinite(audio.read(wav).samples).all()


@pytest.mark.parametrize("file", [SCORES[0], *map(nightly, SCORES[1:])], ids=lambda path: path.stem)
def test_a_config_of_written_music_trains_and_a_model_writes(file, cache, command, tmp_path):
    """Each reads what its data composes, and accompanies a melody where it was trained to."""
    config, run = load(file), tmp_path / "run"
    asked = ["--config", file, *SHRUNK_SCORES, "--workdir", run, "--cache-dir", cache]
    asked += ["--train.seq-len", str(config.train.seq_len)] if config.model.context_streams else []
    assert command(train.main, *asked)[0] == 0
    figures = json.loads((run / "report.json").read_text())["metrics"]
    assert figures["nats_per_frame"] > 0
    assert figures["markov_nats_per_frame"] > 0
    wanted = ["--bars", "2"]
    if config.model.context_streams:
        tune = compose_tune(0, 0)
        write_midi(tmp_path / "tune.mid", select_tracks(crop(tune, 0, 2), [0]))
        wanted = ["--melody", tmp_path / "tune.mid"]
    assert command(generate.main, "--workdir", run, "--num", "2", *wanted)[0] == 0
    written = sorted((run / "generated" / "seed_0").glob("*.mid"))
    assert len(written) == 2
    for path in written:
        ((_, found),) = read_scores(path)
        assert found.score.quarters <= 8


@pytest.mark.parametrize("file", CONFIGS, ids=lambda path: path.stem)
def test_a_config_says_how_to_run_it_and_what_came_of_it(file):
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    assert f"python -m jaxgen.train --config configs/{file.name}" in text
    assert "2 CPU cores" in text
    assert "Validation" in text


@pytest.mark.parametrize(
    "file", [f for f in CONFIGS if f in SEQUENCES or f.stem == "digits_gan"], ids=lambda path: path.stem
)
def test_a_config_is_conditioned_on_the_labels_of_its_data(file):
    assert load(file).model.labels == (("digit", "speaker") if file.stem.startswith("digits") else ("timbre", "tempo"))


def test_a_vocoder_of_the_configs_hears_the_frames_of_the_models_it_is_for(recordings):
    frames = {path.stem: load(path).features for path in CONFIGS}
    assert frames["digits_gan"] == frames["digits_mel"]
    one_by_one = dataclasses.replace(frames["digits_mel"], stack=1)  # how many a model takes together is its own affair
    assert frames["digits_vocoder"] == one_by_one
    assert frames["music_48k_vocoder"] == dataclasses.replace(frames["music_48k"], stack=1)
    assert frames["speech_vocoder"] == any_sound(Folder(root=str(recordings / "kerstin"))).features
