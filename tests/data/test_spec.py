"""Labels of clips that are made: what is not said is drawn as the training clips have it, together."""

import collections

import pytest

from jaxgen.core.errors import UserError
from jaxgen.data.ingest import AudioPolicy
from jaxgen.data.preparation import prepare
from jaxgen.data.spec import DataSpec
from jaxgen.data.synthetic import PluckedStrings
from jaxgen.features import MuLaw

NAMES = ("digit", "speaker")
SPEC = DataSpec(
    MuLaw(sample_rate=8_000),
    vocabularies=(("digit", ("3", "8")), ("speaker", ("eve", "ida", "tom"))),
    combinations=((("3", "eve"), 6), (("3", "tom"), 2), (("8", "ida"), 8), (("8", ""), 2)),
)


def shares(row, count=4_000):
    drawn = collections.Counter(
        tuple(each.get(name, "") for name in NAMES) for each in SPEC.draw_labels(NAMES, [row] * count, 1)
    )
    return {values: number / count for values, number in drawn.items()}


def test_what_is_not_said_is_drawn_with_what_is():
    assert shares({"digit": "3"}) == pytest.approx({("3", "eve"): 0.75, ("3", "tom"): 0.25}, abs=0.03)
    assert shares({"speaker": "ida"}) == {("8", "ida"): 1.0}
    assert shares({}) == pytest.approx(
        {("3", "eve"): 6 / 18, ("3", "tom"): 2 / 18, ("8", "ida"): 8 / 18, ("8", ""): 2 / 18}, abs=0.03
    )


def test_of_mixed_values_any_part_will_do():
    drawn = shares({"digit": "3:0.5,8:0.5"})
    assert {speaker for _, speaker in drawn} == {"eve", "tom", "ida", ""}
    assert {digit for digit, _ in drawn} == {"3:0.5,8:0.5"}


def test_unknown_can_be_said():
    assert set(shares({"speaker": "unknown"})) == {("3", "unknown"), ("8", "unknown")}
    assert SPEC.label_index("speaker", "unknown") == 0
    known = DataSpec(SPEC.features, vocabularies=(("mood", ("calm", "unknown")),))
    assert known.label_index("mood", "unknown") == 2


def test_what_no_clip_has_together_is_drawn_one_by_one():
    assert set(shares({"digit": "8", "speaker": "tom"})) == {("8", "tom")}
    alone = DataSpec(SPEC.features, vocabularies=SPEC.vocabularies)
    assert {row["speaker"] for row in alone.draw_labels(NAMES, [{"digit": "8"}] * 50, 0)} == {"eve", "ida", "tom"}


def test_a_clip_depends_on_its_place_and_the_seed_alone():
    few, many = (SPEC.draw_labels(NAMES, [{}] * count, 5) for count in (3, 9))
    assert many[:3] == few
    assert SPEC.draw_labels(NAMES, [{}] * 9, 6) != many
    with pytest.raises(UserError, match="never seen in training"):
        SPEC.draw_labels(NAMES, [{"digit": "7"}], 0)


def test_a_store_counts_what_its_training_clips_have_together(tmp_path):
    store = prepare(PluckedStrings(num_clips=12, seconds=0.2), MuLaw(sample_rate=8_000), AudioPolicy(), tmp_path)
    spec = store.spec(("timbre", "tempo"))
    assert sum(count for _, count in spec.combinations) == len(store.indices("train"))
    clips = [store.clips[clip].fields for clip in store.indices("train")]
    counts = collections.Counter((fields["timbre"], fields["tempo"]) for fields in clips)
    assert dict(spec.combinations) == dict(counts)
    assert store.spec(()).combinations == ()
