"""Makes new clips from a trained run: `python -m jaxgen.generate --workdir runs/quickstart --num 8`.

A sequence model's sound is written as it is made, so that clips may be of any length. Ctrl-C ends them where they are:
shorter, but whole. A model of noise makes whole clips, and the way from one to the next (`--interpolate`).
"""

import dataclasses
import functools
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from jaxgen import audio
from jaxgen.config import load, parse
from jaxgen.distributions import Sampling
from jaxgen.drawing import Drawing, refuse
from jaxgen.errors import ExitCode, UserError, run
from jaxgen.evaluation.from_noise import FromNoise
from jaxgen.evaluation.runner import Evaluation
from jaxgen.files import writing
from jaxgen.generation import Generator, use_all_cores
from jaxgen.models.noise import Latents, NoiseConfig
from jaxgen.models.sequence import SequenceConfig
from jaxgen.noise_clips import NoiseGenerator
from jaxgen.numerics import fix_settings
from jaxgen.remote import copied, delivered
from jaxgen.runs import Run, keep_compiled
from jaxgen.sounding import open_vocoder, refined
from jaxgen.training.interrupts import Interrupts
from jaxgen.training.schedule import check_seed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Drawing):
    """New clips from a trained run, with a provenance file beside each."""

    workdir: str
    """Folder of the run, also in an object store (s3://bucket/name, gs://bucket/name)."""
    num: int = 8
    """Clips, all made in one batch."""
    seconds: float | None = None
    """Longest clip in seconds, beyond the prompt; none takes the length of the training clips."""
    label: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A label all clips shall have, as name=value; repeat the option for several. name=value:share,value:share
    mixes values."""
    prompt: str | None = None
    """Audio file that every clip begins with and continues."""
    interpolate: int | None = None
    """Of a model of noise: one more file, in which each clip turns into the next in so many steps."""
    seed: int = 0
    """The same seed gives the same clips."""
    out: str | None = None
    """Folder of the clips; none takes generated/seed_N in the run's folder."""
    step: int | None = None
    """Checkpoint to use; none takes the best."""
    vocoder: str | None = None
    """Folder of the run of a vocoder that makes sound of a mel model's frames; none takes Griffin-Lim."""
    refinements: int | None = None
    """Iterations of Griffin-Lim that bring a vocoder's sound nearer to the frames; none takes the vocoder's own."""
    config: str | None = None
    """Python file that defines classes of the run's config; it is code: pass only one that you trust."""
    cache_dir: str = "~/.cache/jaxgen"
    """Folder of compiled programs, and of the local copy of a run in an object store."""

    def __post_init__(self) -> None:
        if self.num < 1:
            raise UserError(f"--num is {self.num}, expected at least 1 clip.")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise UserError(f"--seconds is {self.seconds:g}, expected a length above 0.")
        if self.interpolate is not None and (self.interpolate < 1 or self.num < 2):
            raise UserError(
                f"--interpolate is {self.interpolate} and --num {self.num}, expected at least 1 step and 2 clips to go between."
            )
        check_seed(self.seed)


def main() -> int:
    options = parse(Options, None, sys.argv[1:], "python -m jaxgen.generate")
    fix_settings()
    keep_compiled(options.cache_dir)
    if options.config is not None:
        load(options.config)
    use_all_cores()
    shown = options.out or f"{options.workdir.rstrip('/')}/generated/seed_{options.seed}"
    with (
        copied(options.workdir, options.cache_dir) as folder,
        delivered(options.out or folder / "generated" / f"seed_{options.seed}") as out,
    ):
        return _generate(options, folder, out, shown)


@dataclasses.dataclass(frozen=True)
class _Coming:
    """Clips that are about to be made."""

    labels: Sequence[Mapping[str, str]]
    """Of each."""
    blocks: Iterable[Sequence[np.ndarray]]
    """The next samples of every clip, float32 [any number] each, again and again until all are made."""


def _generate(options: Options, workdir: Path, out: Path, shown: str) -> int:
    trained = Run.open(workdir, options.step)
    model, rate = trained.config.model, trained.spec.features.sample_rate
    evaluation = options.of(trained.config.evaluation)
    vocoder, decoder = None, None
    if options.vocoder is not None:
        vocoder, decoder = open_vocoder(options.vocoder, options.cache_dir, trained.spec.features, options.refinements)
    else:
        trained = refined(trained, options.refinements)
    if isinstance(model, SequenceConfig) and isinstance(evaluation, Evaluation):
        refuse(options, ("interpolate",), "predicts one step after another")
        generator = Generator(trained.training.module, model, trained.spec, decoder)
        coming = _of_a_sequence(options, trained, generator, evaluation.sampling)
    elif isinstance(model, NoiseConfig) and isinstance(evaluation, FromNoise):
        refuse(options, ("seconds", "prompt"), "makes whole clips of noise")
        noise = NoiseGenerator(trained.training.module, model, trained.spec, decoder)
        coming = _of_noise(options, trained, noise, evaluation.latents)
    else:
        raise UserError(
            f"'{options.workdir}' holds a {type(model).__name__}, which makes sound of frames and no frames; pass it as "
            "--vocoder, and as --workdir the run of a mel model."
        )
    started = time.perf_counter()
    save = functools.partial(
        trained.save_clips, labels=coming.labels, seed=options.seed, prompt=options.prompt or "", vocoder=vocoder
    )
    with Interrupts(ExitCode.INTERRUPTED) as interrupts:
        num_samples = write_as_made(coming.blocks, out, len(coming.labels), save, lambda: interrupts.requested)
    elapsed = time.perf_counter() - started
    if num_samples:
        print(
            f"{len(coming.labels)} clips in {shown} ({num_samples / rate:.1f} s of audio in {elapsed:.1f} s with compilation: "
            f"real-time factor {num_samples / rate / elapsed:.1f})"
        )
    if interrupts.requested:
        kept = "the clips end where they were" if num_samples else "nothing was written"
        print(f"jaxgen: interrupted; {kept}", file=sys.stderr)
    return ExitCode.INTERRUPTED if interrupts.requested else ExitCode.DONE


def _of_a_sequence(options: Options, trained: Run, generator: Generator, sampling: Sampling) -> _Coming:
    labels, features = [_labels(options.label)] * options.num, trained.spec.features
    prompt = None if options.prompt is None else read_prompt(options.prompt, features.sample_rate)
    most = generator.num_steps(options.seconds) * features.samples_per_step
    _check_size(most, prompt, features.sample_rate)
    stream = generator.stream(
        trained.params,
        labels,
        seconds=options.seconds,
        prompt=prompt,
        sampling=sampling,
        seed=options.seed,
        progress=True,
    )
    return _Coming(labels, stream)


def _of_noise(options: Options, trained: Run, generator: NoiseGenerator, latents: Latents) -> _Coming:
    """The clips asked for; with --interpolate one more, of them all in turn with what lies between them."""
    asked = [_labels(options.label)] * options.num
    labels = trained.spec.drawn_labels(trained.config.model.labels, asked, options.seed)
    settings: dict[str, Any] = {"latents": latents, "seed": options.seed}
    steps = options.interpolate

    def made() -> Iterator[list[np.ndarray]]:
        if steps is None:
            yield generator(trained.params, labels, **settings).clips
        else:
            way = generator.way(trained.params, labels, steps, **settings)
            yield [*way[::steps], generator.joined(way)]

    return _Coming(labels if steps is None else (*labels, {"interpolated": str(steps)}), made())


def write_as_made(
    stream: Iterable[Sequence[np.ndarray]],
    out: Path,
    num: int,
    save: Callable[[Path, Sequence[np.ndarray]], None],
    stop: Callable[[], bool],
) -> int:
    """Writes `num` clips while they are made; returns how many samples they have together.

    save: writes clips and their provenance into a folder; it is given clips without a sound, to which the stream is
    added, in a hidden folder inside `out`. Whole files go from there to `out` when the stream ends, or between two of its
    blocks when `stop` says so; nothing does where it raises, or before the first block.
    """
    unfinished, num_samples = out / f".unfinished.{os.getpid()}", 0
    try:
        save(unfinished, [np.zeros(0, np.float32)] * num)
        wavs = sorted(unfinished.glob("*.wav"), key=lambda wav: int(re.split(r"\D", wav.name)[0]))
        for block in stream:
            for wav, samples in zip(wavs, block, strict=True):
                audio.append(wav, samples)
                num_samples += len(samples)
            if stop():
                break
        if num_samples:
            with writing(out):
                for wav in wavs:
                    for path in (wav.with_suffix(".json"), wav):  # no interruption leaves a wav without its mark
                        os.replace(path, out / path.name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return num_samples


def _check_size(num_samples: int, prompt: np.ndarray | None, rate: int) -> None:
    if num_samples + (0 if prompt is None else len(prompt)) > audio.MOST_WAV_SAMPLES:
        raise UserError(
            f"a clip would last {num_samples / rate:,.0f} s, but a wav file holds at most "
            f"{audio.MOST_WAV_SAMPLES // rate:,} s at {rate} Hz; lower --seconds, and continue with --prompt."
        )


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


def _labels(words: tuple[str, ...]) -> dict[str, str]:
    for word in words:
        if "=" not in word:
            raise UserError(f"--label is '{word}', expected name=value, as in --label digit=3.")
    return dict(word.split("=", 1) for word in words)


if __name__ == "__main__":
    run(main)
