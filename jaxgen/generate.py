"""Makes new clips from a trained run: `python -m jaxgen.generate --workdir runs/quickstart --num 8`."""

import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
import tyro

from jaxgen import audio
from jaxgen.config import parse
from jaxgen.distributions import Sampling
from jaxgen.errors import ExitCode, UserError, run
from jaxgen.generation import Generator
from jaxgen.runs import Run
from jaxgen.training.loop import check_seed


@dataclasses.dataclass(frozen=True)
class Options:
    """New clips from a trained run, with a provenance file beside each."""

    workdir: str
    """Folder of the run."""
    num: int = 8
    """Clips, all made in one batch."""
    seconds: float | None = None
    """Longest clip in seconds, beyond the prompt; none takes the length of the training clips."""
    label: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A label all clips shall have, as name=value; repeat the option for several."""
    prompt: str | None = None
    """Audio file that every clip begins with and continues."""
    temperature: float | None = None
    """Below 1 likelier, above 1 more varied; none takes the config's."""
    top_k: int | None = None
    """Draw only among this many likeliest; 0 is all, none takes the config's."""
    top_p: float | None = None
    """Draw only among the likeliest that hold this share of the probability; none takes the config's."""
    spread: float | None = None
    """Below 1 frames are cleaner, above 1 rougher; none takes the config's."""
    seed: int = 0
    """The same seed gives the same clips."""
    out: str | None = None
    """Folder of the clips; none takes generated/seed_N in the run's folder."""
    step: int | None = None
    """Checkpoint to use; none takes the best."""

    def __post_init__(self) -> None:
        if self.num < 1:
            raise UserError(f"--num is {self.num}, expected at least 1 clip.")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise UserError(f"--seconds is {self.seconds:g}, expected a length above 0.")
        check_seed(self.seed)


def main() -> int:
    options = parse(Options, None, sys.argv[1:], "python -m jaxgen.generate")
    trained = Run.open(options.workdir, options.step)
    generator = Generator(trained.training.module, trained.config.model, trained.spec)
    labels = _labels(options.label)
    prompt = None if options.prompt is None else read_prompt(options.prompt, trained.spec.features.sample_rate)
    generated = generator(
        trained.params,
        [labels] * options.num,
        seconds=options.seconds,
        prompt=prompt,
        sampling=_sampling(options, trained.config.evaluation.sampling),
        seed=options.seed,
        progress=True,
    )
    out = Path(options.out or trained.workdir / "generated" / f"seed_{options.seed}")
    trained.save_clips(out, generated.clips, [labels] * options.num, seed=options.seed, prompt=options.prompt or "")
    print(
        f"{len(generated.clips)} clips in {out} ({sum(map(len, generated.clips)) / generated.sample_rate:.1f} s of audio"
        f" in {generated.elapsed:.1f} s with compilation: real-time factor {generated.real_time_factor:.1f})"
    )
    return ExitCode.DONE


def read_prompt(path: str, sample_rate: int) -> np.ndarray:
    """Samples of a prompt, float32 [nsamp]. Raises UserError where it cannot be read or has another rate."""
    if not Path(path).is_file():
        raise UserError(f"no prompt at '{path}'. Pass --prompt an audio file.")
    try:
        waveform = audio.read(path)
    except audio.AudioError as error:
        raise UserError(f"the prompt '{path}' cannot be read ({error}). Pass --prompt an audio file.") from None
    if waveform.sample_rate != sample_rate:
        raise UserError(
            f"the prompt '{path}' has {waveform.sample_rate} Hz, but the model was trained at {sample_rate} Hz; "
            "resample it first."
        )
    return audio.mix_down(waveform.samples)


def _sampling(options: Options, default: Sampling) -> Sampling:
    asked = {name: getattr(options, name) for name in ("temperature", "top_k", "top_p", "spread")}
    return dataclasses.replace(default, **{name: value for name, value in asked.items() if value is not None})


def _labels(words: tuple[str, ...]) -> dict[str, str]:
    for word in words:
        if "=" not in word:
            raise UserError(f"--label is '{word}', expected name=value, as in --label digit=3.")
    return dict(word.split("=", 1) for word in words)


if __name__ == "__main__":
    run(main)
