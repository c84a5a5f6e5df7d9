"""Makes new clips from a trained run: `python -m jaxgen.generate --workdir runs/quickstart --num 8`.

A sequence model's sound is written as it is made, so that clips may be of any length. Ctrl-C ends them where they are:
shorter, but whole. A model of noise makes whole clips, and the way from one to the next (`--interpolate`).
"""

import dataclasses
import functools
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from tqdm import tqdm

from jaxgen import audio
from jaxgen.config import load, parse
from jaxgen.core.errors import ExitCode, UserError, run
from jaxgen.core.files import explain_write_errors, partial_folder
from jaxgen.core.names import UserPath, normalize
from jaxgen.core.numerics import fix_settings
from jaxgen.data.store import AudioPolicy
from jaxgen.evaluation.autoregressive import AutoregressiveEvaluation
from jaxgen.evaluation.latent_evaluation import LatentEvaluation
from jaxgen.inference import latent
from jaxgen.inference.generation import Generator, use_all_cores
from jaxgen.inference.latent import LatentSampler
from jaxgen.inference.sampling import SamplingOverrides, refuse
from jaxgen.inference.vocoder_run import open_vocoder, with_refinements
from jaxgen.models.latent import LatentGeneratorConfig, LatentSampling
from jaxgen.models.sequence import SequenceConfig
from jaxgen.nn.distributions import Sampling
from jaxgen.runs.run import Run, enable_compilation_cache
from jaxgen.storage import open_run_copy, output_folder
from jaxgen.training.interrupts import Interrupts
from jaxgen.training.schedule import check_seed

BATCH = 64
"""Clips of a sequence model that are made at a time where nothing else is asked."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(SamplingOverrides):
    """New clips from a trained run, with a provenance file beside each."""

    workdir: UserPath
    """Folder of the run, also in an object store (s3://bucket/name, gs://bucket/name)."""
    num: int = 8
    """Clips; the same seed makes the same first ones, however many they are."""
    batch_size: int | None = None
    """Clips that are made at a time: more are faster and take more memory. None takes 64; a model of noise has its own."""
    seconds: float | None = None
    """Longest clip in seconds, beyond the prompt; none takes the length of the training clips."""
    label: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A label all clips shall have, as name=value; repeat the option for further names. name=value:share,value:share
    mixes values."""
    prompt: UserPath | None = None
    """Audio file that every clip begins with and continues."""
    interpolate: int | None = None
    """Of a model of noise: one more file, in which each clip turns into the next in so many steps."""
    seed: int = 0
    """The same seed gives the same clips."""
    out: UserPath | None = None
    """Folder of the clips; none takes generated/seed_N in the run's folder."""
    step: int | None = None
    """Checkpoint to use; none takes the best."""
    vocoder: UserPath | None = None
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
        if self.batch_size is not None and self.batch_size < 1:
            raise UserError(f"--batch-size is {self.batch_size}, expected at least 1 clip at a time.")
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
    enable_compilation_cache(options.cache_dir)
    if options.config is not None:
        load(options.config)
    use_all_cores()
    shown = options.out or f"{options.workdir.rstrip('/')}/generated/seed_{options.seed}"
    with (
        open_run_copy(options.workdir, options.cache_dir) as folder,
        output_folder(options.out or folder / "generated" / f"seed_{options.seed}") as out,
    ):
        return _generate(options, folder, out, shown)


@dataclasses.dataclass(frozen=True)
class _Batch:
    """Clips that are about to be made together."""

    first: int
    """Place of the first of them among all."""
    labels: Sequence[Mapping[str, str]]
    """Of each."""
    blocks: Iterable[Sequence[np.ndarray]]
    """The next samples of every clip, float32 [any number] each, again and again until all are made."""


def _generate(options: Options, workdir: Path, out: Path, shown: str) -> int:
    trained = Run.open(workdir, options.step)
    model, rate = trained.config.model, trained.spec.features.sample_rate
    evaluation = options.apply_to(trained.config.evaluation)
    vocoder, decoder = None, None
    if options.vocoder is not None:
        vocoder, decoder = open_vocoder(options.vocoder, options.cache_dir, trained.spec.features, options.refinements)
    else:
        trained = with_refinements(trained, options.refinements)
    if isinstance(model, SequenceConfig) and isinstance(evaluation, AutoregressiveEvaluation):
        refuse(options, ("interpolate",), "predicts one step after another")
        generator = Generator(trained.task.module, model, trained.spec, decoder)
        coming = _of_a_sequence(options, trained, generator, evaluation.sampling)
    elif isinstance(model, LatentGeneratorConfig) and isinstance(evaluation, LatentEvaluation):
        refuse(options, ("seconds", "prompt", "batch_size"), "makes whole clips of noise")
        noise = LatentSampler(trained.task.module, model, trained.spec, decoder)
        coming = _of_noise(options, trained, noise, evaluation.latents)
    else:
        raise UserError(
            f"'{options.workdir}' holds a {type(model).__name__}, which makes sound of frames and no frames; pass it as "
            "--vocoder, and as --workdir the run of a mel model."
        )
    total = options.num + (options.interpolate is not None)
    save = functools.partial(
        trained.save_clips, seed=options.seed, prompt=options.prompt or "", vocoder=vocoder, total=total
    )
    started, num_clips, num_samples = time.perf_counter(), 0, 0
    with Interrupts(ExitCode.INTERRUPTED) as interrupts, _progress(total, options.batch_size or BATCH) as bar:
        for batch in coming:
            keep = functools.partial(save, labels=batch.labels, first=batch.first)
            made = stream_to_files(batch.blocks, out, len(batch.labels), keep, lambda: interrupts.requested)
            num_samples, num_clips = num_samples + made, num_clips + (len(batch.labels) if made else 0)
            bar.update(len(batch.labels))
            if interrupts.requested:
                break
    elapsed = time.perf_counter() - started
    if num_samples:
        print(
            f"{num_clips} clips in {shown} ({num_samples / rate:.1f} s of audio in {elapsed:.1f} s with compilation: "
            f"real-time factor {num_samples / rate / elapsed:.1f})"
        )
    if interrupts.requested:
        kept = "the clips end where they were" if num_samples else "nothing was written"
        missing = f", {total - num_clips} are missing" if 0 < num_clips < total else ""
        print(f"jaxgen: interrupted; {kept}{missing}", file=sys.stderr)
    return ExitCode.INTERRUPTED if interrupts.requested else ExitCode.DONE


def _progress(total: int, size: int) -> Any:
    """A bar of the clips where they are made in batches of `size`; a single batch shows a bar of its steps."""
    seconds = 0.1 if sys.stderr.isatty() else 60.0
    return tqdm(total=total, unit="clip", desc="generating", mininterval=seconds, disable=total <= size)


def _of_a_sequence(options: Options, trained: Run, generator: Generator, sampling: Sampling) -> Iterator[_Batch]:
    row, features = _labels(options.label), trained.spec.features
    prompt = None if options.prompt is None else read_prompt(options.prompt, features.sample_rate)
    most = generator.num_steps(options.seconds) * features.samples_per_step
    _check_size(most, prompt, features.sample_rate)
    size = options.batch_size or BATCH
    for first in range(0, options.num, size):
        labels = [row] * min(size, options.num - first)
        stream = generator.stream(
            trained.params,
            labels,
            seconds=options.seconds,
            prompt=prompt,
            sampling=sampling,
            seed=options.seed,
            first=first,
            progress=options.num <= size,
        )
        yield _Batch(first, labels, stream)


def _of_noise(options: Options, trained: Run, generator: LatentSampler, latents: LatentSampling) -> Iterator[_Batch]:
    """The clips asked for; with --interpolate one more, of them all in turn with what lies between them."""
    asked, steps = [_labels(options.label)] * options.num, options.interpolate
    settings: dict[str, Any] = {"latents": latents, "seed": options.seed}
    firsts, model = range(0, options.num, latent.BATCH), trained.config.model
    assert isinstance(model, LatentGeneratorConfig)
    labels = trained.spec.draw_labels(model.labels, asked, options.seed)
    most = trained.spec.features.num_samples(model.num_steps)
    if steps is not None and most * options.num * steps > audio.MOST_WAV_SAMPLES:
        raise UserError(
            f"the way through {options.num} clips in {steps} steps each may be longer than a wav file holds; lower --num or "
            "--interpolate."
        )

    def batch(first: int) -> Iterator[list[np.ndarray]]:
        rows = labels[first : first + latent.BATCH]
        yield generator(trained.params, rows, first=first, **settings).clips

    def interpolate(steps: int) -> Iterator[list[np.ndarray]]:
        for first in firsts:
            rows = labels[first : first + latent.BATCH + 1]  # the last begins the next stretch
            clips = generator.interpolate(trained.params, rows, steps, first=first, **settings)
            clips[-1] = clips[-1][: None if first == firsts[-1] else 0]
            yield [generator.concatenate(clips)]

    for first in firsts:
        yield _Batch(first, labels[first : first + latent.BATCH], batch(first))
    if steps is not None:
        yield _Batch(options.num, [{"interpolated": str(steps)}], interpolate(steps))


def stream_to_files(
    stream: Iterable[Sequence[np.ndarray]],
    out: Path,
    num: int,
    save: Callable[[Path, Sequence[np.ndarray]], Sequence[Path]],
    stop: Callable[[], bool],
) -> int:
    """Writes `num` clips while they are made; returns how many samples they have together.

    save: writes clips and their provenance into a folder, and names the wav files; it is given clips without a sound, to
    which the stream is added, in a hidden folder inside `out`. Whole files go from there to `out` when the stream ends,
    or between two of its blocks when `stop` says so; nothing does where it raises, or before the first block.
    """
    num_samples = 0
    with partial_folder(out) as partial:
        wavs = save(partial, [np.zeros(0, np.float32)] * num)
        for block in stream:
            for wav, samples in zip(wavs, block, strict=True):
                audio.append(wav, samples)
                num_samples += len(samples)
            if stop():
                break
        if num_samples:
            with explain_write_errors(out):
                for wav in wavs:
                    for path in (wav.with_suffix(".json"), wav):  # no interruption leaves a wav without its mark
                        os.replace(path, out / path.name)
    return num_samples


def _check_size(num_samples: int, prompt: np.ndarray | None, rate: int) -> None:
    if num_samples + (0 if prompt is None else len(prompt)) > audio.MOST_WAV_SAMPLES:
        raise UserError(
            f"a clip would last {num_samples / rate:,.0f} s, but a wav file holds at most "
            f"{audio.MOST_WAV_SAMPLES // rate:,} s at {rate} Hz; lower --seconds, and continue with --prompt."
        )


def read_prompt(path: str, sample_rate: int) -> np.ndarray:
    """Samples of a prompt, float32 [nsamp]. Raises UserError where it cannot be read or has another rate."""
    if not os.path.exists(path):
        raise UserError(f"no prompt at '{path}'. Pass --prompt an audio file.")
    try:
        with audio.open_recording(path) as recording:
            if recording.sample_rate != sample_rate:
                raise UserError(
                    f"the prompt '{path}' has {recording.sample_rate} Hz, but the model was trained at {sample_rate} Hz; "
                    "resample it first."
                )
            blocks = audio.limit_seconds(recording.blocks, sample_rate, AudioPolicy.max_seconds)
            return np.concatenate([audio.mix_down(block) for block in blocks])
    except audio.AudioError as error:
        raise UserError(f"the prompt '{path}' cannot be read ({error}). Pass --prompt an audio file.") from None


def _labels(words: tuple[str, ...]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for word in words:
        name, _, value = word.partition("=")
        name = normalize(name)
        if not name or not value:
            raise UserError(f"--label is '{word}', expected name=value, as in --label digit=3.")
        if name in labels:
            raise UserError(
                f"--label says {name} twice, '{labels[name]}' and '{value}'; leave one out, or mix them: --label "
                f"{name}={labels[name]}:0.5,{value}:0.5."
            )
        labels[name] = value
    return labels


if __name__ == "__main__":
    run(main)
