"""The root config. A config file is Python and ends in `CONFIG = Config(...)`; every field is an option (`core/options.py`)."""

import dataclasses
import importlib.util
import re
import sys
import traceback
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Literal

from jaxgen.core.errors import UserError
from jaxgen.core.names import CACHE_DIR, UserPath
from jaxgen.core.options import instances_by_name as instances_by_name
from jaxgen.core.options import parse as parse
from jaxgen.core.options import split_values as split_values
from jaxgen.data.clips import Dataset
from jaxgen.data.ingest import AudioPolicy
from jaxgen.evaluation.autoregressive import AutoregressiveEvaluation
from jaxgen.evaluation.result import EvaluationConfig
from jaxgen.features import FeatureSpec, StreamSpec
from jaxgen.models.config import ModelConfig
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.objectives.objective import Objective
from jaxgen.storage import local_folder
from jaxgen.training.profile import span
from jaxgen.training.schedule import Train

_STREAM_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment."""

    data: Dataset
    """Where the sound comes from."""
    features: FeatureSpec
    """What a step of the sequence is."""
    model: ModelConfig
    """Who makes the sound."""
    objective: Objective = Likelihood()
    """What is minimised and how."""
    train: Train = Train()
    """How long and how often."""
    evaluation: EvaluationConfig = AutoregressiveEvaluation()
    """What is made and measured."""
    audio: AudioPolicy = AudioPolicy()
    """How recordings are decoded, and which are refused."""
    workdir: UserPath = ""
    """Folder of the run, also in an object store (s3://bucket/name, gs://bucket/name); none takes runs/ and the name of
    the config file or data folder."""
    cache_dir: str = CACHE_DIR
    """Folder of downloads, decoded data and compiled programs; all in it can be made again."""
    init_from: UserPath = ""
    """Folder of a run whose averaged parameters this one starts from, also in an object store; what is not taken, as it is not
    there or has another size, is told."""
    init_only: str = ""
    """Take only parameters whose path holds this regular expression, as stack/; none takes all."""
    freeze: str = ""
    """Parameters whose path holds this regular expression do not change; none trains all."""
    profile: str = ""
    """Updates to trace for TensorBoard's profile page, as START:N; none for no trace."""
    distributed: Literal["auto", "off", "on"] = "auto"
    """Train in several processes: where a cluster says so (TPU, Slurm, Open MPI, Kubernetes), never, or in any case."""
    coordinator: str = ""
    """Where the processes meet, as HOST:PORT of process 0, if no cluster tells."""
    num_processes: int | None = None
    """How many processes train, if no cluster tells."""
    process_id: int | None = None
    """Which of them this one is, from 0 on, if no cluster tells."""

    streams: Mapping[str, StreamSpec] = dataclasses.field(default_factory=dict, hash=False)
    """Further streams of each clip by name, such as its text, for a model that reads them."""

    def __post_init__(self) -> None:
        span(self.profile)
        for option, pattern in (("--init-only", self.init_only), ("--freeze", self.freeze)):
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(f"{option} is '{pattern}', which is no regular expression ({error}).") from None
        if unfit := [name for name in self.streams if not _STREAM_NAME.fullmatch(name)]:
            raise UserError(f"a stream is called '{unfit[0]}'; expected small letters, digits and underscores.")
        if unread := sorted(set(self.streams) - set(self.model.streams)):
            raise UserError(
                f"the config has the stream '{unread[0]}', which {type(self.model).__name__} does not read; leave it out, or "
                "name it in the model's streams."
            )

    @property
    def folder(self) -> Path:
        """Where the run's files are on this machine: `workdir`, or the local copy of one in an object store."""
        return local_folder(self.workdir, self.cache_dir)


def load(path: str | Path) -> Config:
    """Runs a config file and returns its CONFIG. Raises UserError where there is none."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no config file at '{path}'. Pass --config a Python file that defines CONFIG.")
    spec = importlib.util.spec_from_file_location(module_name(path.stem), path)
    assert spec is not None
    if (beside := str(path.resolve().parent)) not in sys.path:
        sys.path.append(beside)  # last: a file there hides nothing
    return run_module(spec, path)


def module_name(stem: str) -> str:
    """The module that a config file of this name is, and its classes are saved with."""
    return f"jaxgen_config_{stem}"


def run_module(spec: ModuleSpec, path: Path) -> Config:
    """Runs the module of a config file, as its loader finds it, and returns its CONFIG. path: the file, for messages."""
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"'{path}'{_line_of(error, path)} cannot be run: {type(error).__name__}: {error}.") from error
    config = getattr(module, "CONFIG", None)
    if not isinstance(config, Config):
        raise UserError(f"'{path}' defines no CONFIG of type jaxgen.config.Config.")
    return config


def _line_of(error: Exception, path: Path) -> str:
    """ ", line 7" where a file's own line raised the error."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    return f", line {line}," if line else ""
