"""What stands beside the sound of written music: a MIDI file and a picture, each marked as synthetic."""

from pathlib import Path

from jaxgen.core.files import write_atomic
from jaxgen.scores.midi import write_midi
from jaxgen.scores.picture import draw_score
from jaxgen.scores.score import Score


def write_beside(wav: Path, score: Score) -> None:
    """Writes .mid and .png beside a wav file whose mark stands beside it in a JSON file. Raises UserError where it cannot."""
    write_midi(wav.with_suffix(".mid"), score, comment=wav.with_suffix(".json").read_text())
    write_atomic(wav.with_suffix(".png"), draw_score(score, synthetic=True, comment=wav.stem))
