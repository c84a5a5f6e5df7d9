"""Tunes with their accompaniment, or any other music: which keys sound and which are struck, sixteenth by sixteenth.

python -m jaxgen.train --config configs/tunes.py --data.root DIR
python -m jaxgen.generate --workdir runs/tunes --bars 16 --seed 3

Without --data.root it learns from 400 tunes that are composed by rules. --data.root takes a folder of MIDI, ABC or MusicXML
files; `python -m jaxgen.train --data.root DIR` starts from this config where DIR holds such files alone.
"""

from jaxgen.config import Config
from jaxgen.data.scores import ComposedTunes, Scores
from jaxgen.recipes.presets import any_music

CONFIG: Config = any_music(Scores(composed=ComposedTunes(num_clips=400)))
