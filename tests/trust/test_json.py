"""What is saved as JSON never becomes code, and whatever else it holds is one line."""

import copy
import dataclasses
import json
import math
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.config import Config
from jaxgen.core.errors import UserError
from jaxgen.core.serial import from_json, parse_json, to_json
from jaxgen.data.batches import Batches
from jaxgen.data.clips import FieldIn
from jaxgen.data.folder import Folder
from jaxgen.data.spec import DataSpec
from jaxgen.data.store import StoredClip
from jaxgen.evaluation.classifier_metrics import ClassifierMetrics
from jaxgen.features import LogMel
from jaxgen.models.planned_rnn import PlannedRNN
from jaxgen.models.sample_rnn import SampleRNN
from jaxgen.models.wave_rnn import WaveRNN
from jaxgen.nn.recurrent import GRU
from jaxgen.recipes.presets import quickstart
from jaxgen.training.schedule import Train

CONFIG = dataclasses.replace(
    quickstart(),
    data=Folder(root="x", pattern="{digit}_{index}", validation=FieldIn("index", range(3))),
    model=PlannedRNN(samples=SampleRNN(cell=GRU(hidden_size=4), frame_sizes=(16,))),
    evaluation=dataclasses.replace(quickstart().evaluation, metrics=(ClassifierMetrics(),)),
    train=Train(stuck_after=math.inf),
)
CLIP = StoredClip("a.wav", "train", {"digit": "3"}, "ab", 10, 1, 0, 0, 8_000, 1, -20.0, 0.5, 0.5)
SPEC = DataSpec(features=LogMel(sample_rate=8_000, n_fft=256, hop_length=80, n_mels=4), mean=(0.0, 1.0), std=(1, 1.0))
SAVED = {value: json.loads(json.dumps(to_json(value))) for value in (CONFIG, SPEC)}

CLASSES = st.sampled_from(
    [
        *("subprocess.getoutput", "os.system", "builtins.eval", "builtins.dict", "jaxgen.train.main", "antigravity.x"),
        *("jaxgen.runs.lock.run_lock", "UserError", "jaxgen.config.load", "jaxgen.training.loop.fit", "", "."),
        *("MelRNN.make", "Config", "..x", "jaxgen.models.mel_rnn", "this.s"),
        *(cls.__qualname__ for cls in (WaveRNN, GRU, Train, Batches, Folder, LogMel)),
    ]
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from([10**400, -(10**400), 2**64, "\ud800", 5e-324]),
    CLASSES,
    st.builds(lambda name: {"class": name}, st.one_of(CLASSES, st.integers(), st.none(), st.lists(st.none()))),
    st.builds(lambda name: {"class": name, "cmd": "touch PWNED"}, CLASSES),
)
HOSTILE = st.recursive(
    LEAVES, lambda of: st.lists(of, max_size=3) | st.dictionaries(st.text(max_size=5), of, max_size=3)
)


def places(value, path=()):
    """The paths of all that a JSON value holds."""
    yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(item, (*path, key))


@pytest.mark.usefixtures("all_loaded")
@pytest.mark.parametrize("value", SAVED, ids=["config", "spec"])
@settings(deadline=None)
@given(data=st.data())
def test_json_that_was_tampered_with_gives_a_typed_value_or_one_line(value, data):
    tampered = copy.deepcopy(SAVED[value])
    for _ in range(data.draw(st.integers(1, 2))):
        *path, last = data.draw(st.sampled_from(list(places(tampered))[1:]))
        holder = tampered
        for key in path:
            holder = holder[key]
        action = data.draw(st.sampled_from(["replace", "remove", "add"]))
        if action == "replace":
            holder[last] = data.draw(HOSTILE)
        elif action == "remove":
            del holder[last]
        elif isinstance(holder, dict):
            holder[data.draw(st.text(max_size=5))] = data.draw(HOSTILE)
        if len(list(places(tampered))) == 1:
            break
    before = set(sys.modules)
    try:
        found = from_json(tampered, type(value), "the run 'x'")
        said = ""
    except UserError as error:
        found, said = value, str(error)
    assert not said or said.startswith("the run 'x' cannot be used: ")
    assert from_json(json.loads(json.dumps(to_json(found))), type(value), "it") == found
    assert set(sys.modules) == before


@pytest.mark.parametrize("value", [CONFIG, CLIP, SPEC], ids=["config", "clip", "spec"])
def test_what_was_saved_is_what_is_read(value):
    assert from_json(json.loads(json.dumps(to_json(value))), type(value), "it") == value


@settings(deadline=None)
@given(content=st.one_of(st.binary(max_size=20), HOSTILE.map(lambda value: json.dumps(value).encode())))
def test_bytes_are_json_or_one_line(content):
    said = "the index"
    try:
        parse_json(content, "the index")
    except UserError as error:
        said = str(error)
    assert "\n" not in said
    assert "the index" in said


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, b"\xff\xfe\x00", "1" * 10_000, "", "{"])
def test_json_that_no_parser_takes_is_one_line(content):
    with pytest.raises(UserError, match="the index is not JSON that can be read"):
        parse_json(content, "the index")


def test_a_message_names_the_field_what_it_is_and_what_was_expected():
    for path, value, said in (
        (("train", "steps"), True, "train.steps is true, expected int"),
        (("train", "steps"), [], "train.steps is a list, expected int"),
        (("train", "steps"), 10**400, "train.steps is a number of 1329 bits, expected int"),
        (("data", "validation"), {}, "data.validation is an object without a class"),
        (("data", "test"), {"class": 5}, "data.test.class is 5, expected a class that derives from SplitRule"),
        (("train", "on_full_disk"), "no", "train.on_full_disk is \"no\", expected Literal['stop', 'continue']"),
        (("model", "samples", "cell"), SAVED[CONFIG]["train"], 'model.samples.cell.class is "Train'),
        (("train", "steps"), -1, "train: --train.steps"),
    ):
        tampered = copy.deepcopy(SAVED[CONFIG])
        holder = tampered
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = value
        with pytest.raises(UserError) as told:
            from_json(tampered, Config, "it")
        assert said in str(told.value)


def test_a_class_that_was_loaded_by_the_user_is_made():
    @dataclasses.dataclass(frozen=True)
    class Mine(Folder):
        more: int = 3

    mine = dataclasses.replace(CONFIG, data=Mine(root="y", more=4))
    saved = json.loads(json.dumps(to_json(mine)))
    assert from_json(saved, Config, "it") == mine
    saved["data"]["class"] = "elsewhere.Mine"
    with pytest.raises(UserError, match=r"pass --config the file that defines the class, if you trust that file"):
        from_json(saved, Config, "it")
