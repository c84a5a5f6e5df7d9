"""Makes new clips from a trained run: `python -m jaxgen.generate --workdir runs/quickstart --num-clips 8`.

A sequence model's sound is written as it is made, so that clips may be of any length. Ctrl-C ends them where they are:
shorter, but whole. A model of noise makes whole clips, and the way from one to the next (`--interpolate`).
"""

import dataclasses
import functools
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tyro
from tqdm import tqdm

from jaxgen import audio
from jaxgen.core.errors import ExitCode, UserError, run
from jaxgen.core.files import explain_write_errors, partial_folder
from jaxgen.core.names import CACHE_DIR, UserPath, check_no_link_out, normalize
from jaxgen.core.options import check_one_code, parse, split_values
from jaxgen.inference.sampler import ClipRequest, check_size, parse_bars
from jaxgen.inference.sampling_overrides import SamplingOverrides
from jaxgen.inference.score_files import write_beside
from jaxgen.storage import open_run_copy, output_folder
from jaxgen.training.interrupts import Interrupts
from jaxgen.training.schedule import check_seed

if TYPE_CHECKING:  # jax is slow to import
    from jaxgen.scores.score import Score


@dataclasses.dataclass(frozen=True, kw_only=True)
class WantedClips:
    """What most people ask for; --help has it first."""

    workdir: UserPath
    """Folder of the run, also in an object store (s3://bucket/name, gs://bucket/name)."""
    num_clips: int = 8
    """Clips; the same seed makes the same first ones, however many they are."""
    label: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A label all clips shall have, as name=value; repeat the option for further names. name=value:share,value:share
    mixes values."""
    seconds: float | None = None
    """Longest clip in seconds, beyond the prompt; none takes the length of the training clips."""
    bars: int | None = None
    """Of a model of written music: length of each clip in bars, prompt included; none takes that of the training pieces."""
    seed: int = 0
    """The same seed gives the same clips."""
    out: UserPath | None = None
    """Folder of the clips; none takes generated/seed_N in the run's folder."""
    vocoder: UserPath | None = None
    """Folder of the run of a vocoder that makes sound of a mel model's frames; none takes Griffin-Lim."""
    prompt: UserPath | None = None
    """File that every clip begins with and continues: a recording, or of a model of written music a score."""
    infill: str | None = None
    """Of a model of written music: bars of --prompt that are written anew, such as 5-8; all else of it stays."""
    melody: UserPath | None = None
    """Of a model that accompanies: file of the melody, which stays as it is. Short for --input melody=FILE."""
    input: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A stream that the model reads, as name=value: a text, or the path of a file; repeat the option for further names."""
    soundfont: UserPath | None = None
    """Of a model of written music: SoundFont file (.sf2, .sf3) that plays it; none takes the built-in synthesiser."""
    interpolate: int | None = None
    """Of a model of noise: one more file, in which each clip turns into the next in so many steps."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(SamplingOverrides, WantedClips):
    """New clips from a trained run, with a provenance file beside each."""

    batch_size: int | None = None
    """Clips that are made at a time: more are faster and take more memory. None takes 64; a model of noise has its own."""
    step: int | None = None
    """Checkpoint to use; none takes the best."""
    refinements: int | None = None
    """Iterations of Griffin-Lim that bring a vocoder's sound nearer to the frames; none takes the vocoder's own."""
    config: str | None = None
    """Python file that defines classes of the run's config; it is code: pass only one that you trust."""
    cache_dir: str = CACHE_DIR
    """Folder of compiled programs, and of the local copy of a run in an object store."""
    trust_code: bool = False
    """Run the code that the run holds, where its config file defines classes; so of --vocoder. It runs with your rights."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_one_code(self.config, self.trust_code)
        self.request()

    def request(
        self,
        prompt: np.ndarray | None = None,
        inputs: Mapping[str, np.ndarray] | None = None,
        timing: "Score | None" = None,
    ) -> ClipRequest:
        """What is asked of the sampler. prompt: samples float32 [nsamp, *sample_shape]. inputs: streams [N, ...] by name.
        timing: as in `ClipRequest`.
        """
        return ClipRequest(
            num_clips=self.num_clips,
            labels=named_values(self.label, "--label"),
            seed=self.seed,
            batch_size=self.batch_size,
            seconds=self.seconds,
            prompt=prompt,
            interpolate=self.interpolate,
            input=inputs,
            bars=self.bars,
            timing=timing,
            soundfont=self.soundfont,
            infill=None if self.infill is None else parse_bars(self.infill),
        )


def main() -> int:
    words = ["--num-clips" if word == "--num" else word for word in split_values(sys.argv[1:])]
    options = parse(Options, None, words, "python -m jaxgen.generate")

    from jaxgen.config import load  # jax is slow to import, and --help needs none
    from jaxgen.core.numerics import fix_settings
    from jaxgen.inference.generation import use_all_cores
    from jaxgen.runs.run import enable_compilation_cache

    fix_settings()
    enable_compilation_cache(options.cache_dir)
    if options.config is not None:
        load(options.config)
    use_all_cores()
    shown = options.out or f"{options.workdir.rstrip('/')}/generated/seed_{options.seed}"
    with open_run_copy(options.workdir, options.cache_dir) as folder:
        if options.out is None:
            check_no_link_out(folder, ["generated", f"generated/seed_{options.seed}"])
        with output_folder(options.out or folder / "generated" / f"seed_{options.seed}") as out:
            return _generate(options, folder, out, shown)


def _generate(options: Options, workdir: Path, out: Path, shown: str) -> int:
    from jaxgen.inference.vocoder_run import open_vocoder, with_refinements
    from jaxgen.runs.run import Run

    trained = Run.open(workdir, options.step, trust_code=options.trust_code)
    features = trained.spec.features
    rate = features.sample_rate
    evaluation = trained.config.evaluation.with_sampling(options.overrides)
    vocoder, decoder = None, None
    if options.vocoder is not None:
        vocoder, decoder = open_vocoder(
            options.vocoder, options.cache_dir, trained.spec.features, options.refinements, options.trust_code
        )
    else:
        trained = with_refinements(trained, options.refinements)
    sampler = evaluation.sampler(trained.task, trained.config.model, trained.spec, decoder)
    said = named_values(options.input, "--input") | ({} if options.melody is None else {"melody": options.melody})
    request = options.request(
        None if options.prompt is None else sampler.read_prompt(options.prompt),
        trained.spec.parse_inputs(said) if said else None,
        sampler.read_timing(options.prompt, said),
    )
    batches = sampler.batches(trained.params, request, evaluation.sampling)
    check_size(sampler.max_samples(request), features)
    total = request.total
    save = functools.partial(
        trained.save_clips,
        seed=options.seed,
        prompt=options.prompt or "",
        vocoder=vocoder,
        soundfont=options.soundfont,
        total=total,
    )
    size = options.batch_size or sampler.default_batch_size
    started, num_clips, num_samples = time.perf_counter(), 0, 0
    with (
        Interrupts(ExitCode.INTERRUPTED) as interrupts,
        _progress(total, size) as bar,
    ):
        for batch in batches:
            keep = functools.partial(save, labels=batch.labels, first=batch.first)
            made = stream_to_files(
                batch.blocks,
                out,
                len(batch.labels),
                keep,
                lambda: interrupts.requested,
                features.sample_shape,
                batch.scores,
            )
            num_samples, num_clips = num_samples + made, num_clips + (len(batch.labels) if made else 0)
            bar.update(len(batch.labels))
            if interrupts.requested:
                break
    elapsed = time.perf_counter() - started
    if num_samples:
        print(
            f"{num_clips} clip{'s' * (num_clips != 1)} in {shown} "
            f"({num_samples / rate:.1f} s of audio in {elapsed:.1f} s with compilation: "
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


def stream_to_files(
    stream: Iterable[Sequence[np.ndarray]],
    out: Path,
    num: int,
    save: Callable[[Path, Sequence[np.ndarray]], Sequence[Path]],
    stop: Callable[[], bool],
    sample_shape: tuple[int, ...] = (),
    scores: "Sequence[Score] | None" = None,
) -> int:
    """Writes `num` clips while they are made; returns how many samples they have together. sample_shape: of the features.
    scores: of the clips, where they are written music.

    save: writes clips and their provenance into a folder, and names the wav files; it is given clips without a sound, to
    which the stream is added, in a hidden folder inside `out`. Whole files go from there to `out` when the stream ends,
    or between two of its blocks when `stop` says so; nothing does where it raises, or before the first block.
    """
    num_samples = 0
    with partial_folder(out) as partial:
        wavs = save(partial, [np.zeros((0, *sample_shape), np.float32)] * num)
        for block in stream:
            for wav, samples in zip(wavs, block, strict=True):
                audio.append(wav, samples)
                num_samples += len(samples)
            if stop():
                break
        if num_samples:
            with explain_write_errors(out):
                for place, wav in enumerate(wavs):
                    if scores is not None:
                        write_beside(wav, scores[place])
                    others = {path for path in partial.iterdir() if path.stem == wav.stem} - {
                        wav,
                        wav.with_suffix(".json"),
                    }
                    for path in (wav.with_suffix(".json"), wav, *sorted(others)):  # nothing is ever without its mark
                        os.replace(path, out / path.name)
    return num_samples


def named_values(words: tuple[str, ...], option: str) -> dict[str, str]:
    """Values by name of `name=value` words. Raises UserError for another word, or a name that comes twice."""
    values: dict[str, str] = {}
    for word in words:
        name, _, value = word.partition("=")
        name = normalize(name)
        if not name or not value:
            raise UserError(f"{option} is '{word}', expected name=value, as in --label digit=3.")
        if name in values:
            mix = f", or mix them: {option} {name}={values[name]}:0.5,{value}:0.5" if option == "--label" else ""
            raise UserError(f"{option} says {name} twice, '{values[name]}' and '{value}'; leave one out{mix}.")
        values[name] = value
    return values


if __name__ == "__main__":
    run(main)
