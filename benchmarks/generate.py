"""Speed of free-running generation, once compiled: samples or frames a second, and the real-time factor.

python -m benchmarks.generate [--streams 1 8 64] [--hidden-size 256] [--record]
"""

from collections.abc import Sequence

import jax
import numpy as np

from benchmarks.measure import Row, alternate, finish, parser
from jaxgen.data.spec import DataSpec
from jaxgen.features import FeatureSpec, LogMel, MuLaw
from jaxgen.generation import Generator
from jaxgen.models.mel_rnn import MelRNN
from jaxgen.models.sequence import ModelConfig
from jaxgen.models.wave_rnn import WaveRNN
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.recurrent import LSTM

SAMPLE_RATE = 8_000


def _spec(features: FeatureSpec) -> DataSpec:
    size = features.step_shape[0] if features.step_shape else 0
    return DataSpec(features=features, mean=(0.0,) * size, std=(1.0,) * size)


def _row(name: str, model: ModelConfig, features: FeatureSpec, streams: int, seconds: float, repeats: int) -> Row:
    spec = _spec(features)
    training = Likelihood().bind(model, spec, steps=1, batch_size=1)
    params = jax.jit(training.init)(jax.random.key(0)).params
    params["head"]["bias"] = params["head"]["bias"].at[-1].add(-1e4 if model.ends_clips else 0.0)  # never ends a clip
    generator = Generator(training.module, model, spec)
    labels: list[dict[str, str]] = [{}] * streams
    steps = features.num_steps(round(seconds * SAMPLE_RATE))
    wall = alternate({"generate": lambda: generator(params, labels, seconds=seconds).clips}, repeats)["generate"]
    decode = _decode_seconds(features, streams, steps, repeats)
    return {
        "candidate": name,
        "streams": streams,
        "seconds_per_clip": seconds,
        "steps_per_second": streams * steps / wall,
        "microseconds_per_step": 1e6 * (wall - decode) / steps,
        "share_decoding": decode / wall,
        "real_time_factor": streams * seconds / wall,
    }


def _decode_seconds(features: FeatureSpec, streams: int, steps: int, repeats: int) -> float:
    """Wall seconds of turning the steps into samples, eight clips at a time, as the generator does."""
    rows = min(streams, 8)
    silence = np.broadcast_to(features.silence(), (rows, steps, *features.step_shape))
    return alternate({"decode": lambda: features.decode(silence)}, repeats)["decode"] * -(-streams // rows)


def main(argv: Sequence[str] | None = None) -> list[Row]:
    options = parser(__doc__)
    options.add_argument("--streams", type=int, nargs="+", default=[1, 8, 64])
    options.add_argument("--hidden-size", type=int, default=256)
    options.add_argument("--seconds", type=float, default=1.0)
    asked = options.parse_args(argv)
    cell = LSTM(hidden_size=asked.hidden_size)
    wave = WaveRNN(cell=cell), MuLaw(sample_rate=SAMPLE_RATE)
    mel = MelRNN(cell=cell), LogMel(sample_rate=SAMPLE_RATE, n_fft=256, hop_length=80, n_mels=48)
    rows = [
        _row(f"{type(model).__name__} {asked.hidden_size}", model, features, streams, asked.seconds, asked.repeats)
        for model, features in (wave, mel)
        for streams in asked.streams
    ]
    return finish("generate", rows, record=asked.record)


if __name__ == "__main__":
    main()
