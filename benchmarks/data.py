"""Speed of the data path: decoding and encoding files into a store, opening it again, and batches from it.

python -m benchmarks.data [--files 500] [--record]
"""

import itertools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.measure import Row, finish, parser
from jaxgen import audio
from jaxgen.data.folder import Folder
from jaxgen.data.pipeline import TrainingBatches
from jaxgen.data.store import AudioPolicy, Store, prepare
from jaxgen.features import FeatureSpec, LogMel, MuLaw

SAMPLE_RATE, SECONDS, SOURCE_RATE = 8_000, 2.0, 16_000


def _write_files(folder: Path, count: int) -> None:
    generator = np.random.default_rng(0)
    for index in range(count):
        samples = generator.normal(0, 0.1, round(SECONDS * SOURCE_RATE)).astype(np.float32)
        audio.write(folder / f"{index:05d}.wav", samples, SOURCE_RATE)


def _timed_prepare(data: Folder, features: FeatureSpec, cache: Path) -> tuple[Store, float]:
    start = time.perf_counter()
    store = prepare(data, features, AudioPolicy(), cache)
    return store, time.perf_counter() - start


def _batches_per_second(store: Store, batch_size: int, seq_len: int, count: int) -> float:
    options = {"lookback": 1, "batch_size": batch_size, "seq_len": seq_len, "seed": 0}
    stream = iter(TrainingBatches(store, store.spec(()), (), **options))
    next(stream)
    start = time.perf_counter()
    for _ in itertools.islice(stream, count):
        pass
    return count / (time.perf_counter() - start)


def main(argv: Sequence[str] | None = None) -> list[Row]:
    options = parser(__doc__)
    options.add_argument("--files", type=int, default=500, help=f"of {SECONDS:g} s each, at {SOURCE_RATE} Hz")
    options.add_argument("--batches", type=int, default=200)
    asked = options.parse_args(argv)
    rows: list[Row] = []
    sizes: dict[str, tuple[FeatureSpec, int, int]] = {"MuLaw": (MuLaw(sample_rate=SAMPLE_RATE), 32, 256)}
    sizes["LogMel"] = LogMel(sample_rate=SAMPLE_RATE, n_fft=256, hop_length=80, n_mels=48), 32, 64
    with tempfile.TemporaryDirectory() as folder:
        sounds, cache = Path(folder, "sounds"), Path(folder, "cache")
        sounds.mkdir()
        _write_files(sounds, asked.files)
        for name, (features, batch_size, seq_len) in sizes.items():
            store, first = _timed_prepare(Folder(root=str(sounds)), features, cache)
            _, again = _timed_prepare(Folder(root=str(sounds)), features, cache)
            batches = _batches_per_second(store, batch_size, seq_len, asked.batches)
            rows.append(
                {
                    "candidate": name,
                    "files": asked.files,
                    "files_per_second": asked.files / first,
                    "audio_hours_per_minute": asked.files * SECONDS / 3600 / first * 60,
                    "seconds_to_open_again": again,
                    "batches_per_second": batches,
                    "audio_seconds_per_second": batches * batch_size * seq_len * features.hop_length / SAMPLE_RATE,
                }
            )
    return finish("data", rows, record=asked.record)


if __name__ == "__main__":
    main()
