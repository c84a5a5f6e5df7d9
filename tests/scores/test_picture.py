"""Pictures of scores: whole, the same each time, marked where asked; absurd ones cost nothing."""

import dataclasses
import io

import numpy as np
import pytest
from matplotlib import image

from jaxgen.scores.compose.tunes import compose_tune
from jaxgen.scores.picture import draw_score, roll_grid
from jaxgen.scores.score import Score, TimeSignature, Track, make_notes


def pixels(content: bytes) -> np.ndarray:
    return np.rint(255 * image.imread(io.BytesIO(content))[..., :3]).astype(int)


def test_the_same_score_gives_the_same_picture_and_another_another():
    score = compose_tune(0, 0)
    picture = draw_score(score)
    assert draw_score(score) == picture
    assert draw_score(dataclasses.replace(score, notes=score.notes[:-20])) != picture


def test_notes_are_where_they_sound():
    """Each track in its colour; a repeated note leaves a gap that a held one does not."""
    tracks = (Track(), Track())
    held = Score(make_notes([0, 0], 16, [60, 64], 127, [0, 1]), 4, 16, tracks)
    repeated = Score(
        make_notes([0, 4, 8, 12, 0], [4, 4, 4, 4, 16], [60, 60, 60, 60, 64], 127, [0, 0, 0, 0, 1]), 4, 16, tracks
    )

    def blue_stretches(score):
        picture = pixels(draw_score(score))
        blue = np.all(np.abs(picture - (31, 119, 180)) < 12, axis=2)
        row = blue[np.argmax(blue.sum(axis=1))]
        return int(np.sum(np.diff(row.astype(int)) == 1))

    assert blue_stretches(held) == 1
    assert blue_stretches(repeated) == 4


def test_what_is_synthetic_says_so():
    score = compose_tune(0, 0)
    assert draw_score(score, synthetic=True) != draw_score(score)
    svg = draw_score(score, synthetic=True, comment="seed $3$", kind="svg").decode()
    assert "<svg" in svg


@pytest.mark.parametrize(
    "score",
    [
        Score(make_notes([], [], []), 4, 0),
        Score(make_notes(0, 1, 127), 1, 1),
        Score(make_notes(0, 1_000_000, 0), 4, 1_000_000),
        Score(make_notes(np.arange(3_000), 3, np.arange(3_000) % 128), 4, 3_002),
        Score(make_notes(0, 4, 60), 4, 40, time_signatures=(TimeSignature(0, 1, 32),)),
        Score(make_notes(0, 4, 60), 4, 4, (Track("$x_{\n" * 50),), title="\x00 ♫ " * 100),
    ],
)
def test_any_score_has_a_picture_of_bounded_size(score):
    height, width, _ = pixels(draw_score(score, dpi=40)).shape
    assert 100 < width < 2_000
    assert 30 < height < 4_000


def test_pieces_side_by_side_are_on_the_same_axes():
    high, low = (Score(make_notes([0, 8], 8, [pitch, pitch + 2]), 4, 16) for pitch in (84, 36))
    shown = roll_grid([("high", high), ("nothing", Score(make_notes([], [], []), 4, 0))], columns=2, beside=[low])
    first, second = shown.axes
    assert first.get_ylim()[0] < 36
    assert first.get_ylim()[1] > 86
    assert first.get_xlim() == second.get_xlim() == (0, 4)
    (notes,) = (each for each in first.collections if len(each.get_paths()) == 2)
    np.testing.assert_allclose([path.vertices[:, 0].min() for path in notes.get_paths()], [0, 2])
