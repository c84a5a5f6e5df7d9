"""Measures a trained run: `python -m jaxgen.evaluate --workdir runs/quickstart [--data.root DIR]`."""

import dataclasses
import sys
from pathlib import Path
from typing import Literal

from jaxgen.core.errors import ExitCode, UserError, run
from jaxgen.core.names import CACHE_DIR, UserPath, check_no_link_out
from jaxgen.core.options import check_one_code, instances_by_name, parse
from jaxgen.inference.sampling_overrides import SamplingOverrides
from jaxgen.storage import open_run_copy, output_folder
from jaxgen.training.schedule import check_seed


@dataclasses.dataclass(frozen=True)
class Data:
    """What the model is measured on."""

    root: UserPath | None = None
    """Folder whose every clip is test data; none takes the run's own validation clips. Also where the run's own data is
    now, if it has moved."""
    pattern: str | None = None
    """Fields in the file names of that folder; none takes the run's pattern."""
    split: Literal["validation", "test", "train"] = "validation"
    """Which of the run's own clips, where no folder is named. Choose by validation clips, and look at the test once."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(SamplingOverrides):
    """Measures a trained run: report.json and report.html."""

    workdir: UserPath
    """Folder of the run, also in an object store (s3://bucket/name, gs://bucket/name)."""
    data: Data = Data()
    """What the model is measured on."""
    metrics: tuple[str, ...] = ()
    """Further metrics beside the run's own, by class: ClassifierMetrics, Prosody; PocketSphinx and DNSMOS, for speech, from
    `pip install 'jaxgen[speech]'`; for a vocoder also PitchErrors, and Pesq and Stoi from
    `pip install 'jaxgen[copies]'`."""
    mixture: tuple[UserPath, ...] = ()
    """Folders of further runs of the same config, as from other seeds: the likelihood of the mixture of all is reported beside
    the run's own."""
    out: UserPath | None = None
    """Folder of the report; none takes evaluation in the run's folder."""
    step: int | None = None
    """Checkpoint to use; none takes the best."""
    num_clips: int | None = None
    """Clips to generate; none takes the config's."""
    seed: int = 0
    """The same seed generates the same clips."""
    vocoder: UserPath | None = None
    """Folder of the run of a vocoder that makes sound of a mel model's frames; none takes Griffin-Lim."""
    refinements: int | None = None
    """Iterations of Griffin-Lim that bring a vocoder's sound nearer to the frames; none takes the vocoder's own."""
    config: str | None = None
    """Python file that defines classes of the run's config; it is code: pass only one that you trust."""
    cache_dir: str = CACHE_DIR
    """Folder of decoded data, classifiers and compiled programs, and of the local copy of a run in an object store."""
    trust_code: bool = False
    """Run the code that the run holds, where its config file defines classes; so of --vocoder. It runs with your rights."""

    def __post_init__(self) -> None:
        if self.num_clips is not None and self.num_clips < 1:
            raise UserError(f"--num-clips is {self.num_clips}, expected at least 1 clip.")
        check_seed(self.seed)
        check_one_code(self.config, self.trust_code)


def main() -> int:
    options = parse(Options, None, sys.argv[1:], "python -m jaxgen.evaluate")

    from jaxgen.config import load  # jax is slow to import, and --help needs none
    from jaxgen.core.numerics import fix_settings
    from jaxgen.runs.run import enable_compilation_cache

    fix_settings()
    enable_compilation_cache(options.cache_dir)
    if options.config is not None:
        load(options.config)
    with open_run_copy(options.workdir, options.cache_dir) as folder:
        if options.out is None:
            check_no_link_out(folder, ["evaluation"])
        with output_folder(options.out or folder / "evaluation") as out:
            return _evaluate(options, folder, out)


def _evaluate(options: Options, workdir: Path, out: Path) -> int:
    from jaxgen.evaluation.audio_metric import AudioMetric
    from jaxgen.evaluation.summary import headline
    from jaxgen.inference.vocoder_run import open_vocoder, with_refinements
    from jaxgen.runs.evaluation import EvaluationRequest, evaluate_run
    from jaxgen.runs.run import Run

    trained, decoder = Run.open(workdir, options.step, trust_code=options.trust_code), None
    further = instances_by_name(AudioMetric, options.metrics, "--metrics")
    if options.vocoder is not None:
        _, decoder = open_vocoder(
            options.vocoder, options.cache_dir, trained.spec.features, options.refinements, options.trust_code
        )
    else:
        trained = with_refinements(trained, options.refinements)
    members = []
    for name in options.mixture:
        with open_run_copy(name, options.cache_dir) as folder:
            members.append(Run.open(folder, option="--mixture", trust_code=options.trust_code))
    vocoder = {} if options.vocoder is None else {"vocoder": options.vocoder}
    request = EvaluationRequest(
        root=options.data.root,
        pattern=options.data.pattern,
        split=options.data.split,
        metrics=further,
        num_clips=options.num_clips,
        sampling=options.overrides,
        seed=options.seed,
        decoder=decoder,
        mixture=tuple(members),
        cache_dir=options.cache_dir,
        about={"run": options.workdir, **vocoder, **options.overrides},
    )
    result, refused = evaluate_run(trained, request, out)
    shown = (options.out or f"{options.workdir.rstrip('/')}/evaluation").rstrip("/")
    if refused:
        print(f"{refused} files were refused; the report lists them")
    print(f"{headline(result)}\nreport: {shown}/report.html, figures: {shown}/report.json")
    return ExitCode.DONE


if __name__ == "__main__":
    run(main)
