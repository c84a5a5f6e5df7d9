"""MLflow: `pip install 'jaxgen[mlflow]'`."""

import dataclasses
import os
import tempfile
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from jaxgen.core.errors import UserError
from jaxgen.core.packages import import_package
from jaxgen.loggers.logger import Logger, RunDescription

_TAG = "jaxgen.run_id"
_MOST_PARAMS, _LONGEST_PARAM = 100, 6_000  # of a request, and characters of a value, that MLflow takes


@dataclasses.dataclass(frozen=True)
class MLflow(Logger):
    """A run of MLflow, which is found again by its tag `jaxgen.run_id`.

    A server's user and password are those of MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.
    """

    experiment: str = "jaxgen"
    """Where the run is listed."""
    tracking_uri: str = ""
    """Address of a server, or of a database, as sqlite:////home/me/mlflow.db; none takes MLFLOW_TRACKING_URI, and without it
    mlflow.db in the current folder."""

    def __post_init__(self) -> None:
        if "@" in urllib.parse.urlsplit(self.tracking_uri).netloc:
            raise UserError(
                "MLflow's tracking_uri holds a user or a password, which would be saved with the run; set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or the whole address in MLFLOW_TRACKING_URI."
            )

    def check(self) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # to its makers
        import_package("mlflow", "mlflow")
        import_package("sqlalchemy", "mlflow")

    def start(self, run: RunDescription) -> "_Session":
        client = import_package("mlflow", "mlflow").MlflowClient(tracking_uri=self.tracking_uri or None)
        found = client.get_experiment_by_name(self.experiment)
        experiment = found.experiment_id if found else client.create_experiment(self.experiment)
        runs = client.search_runs([experiment], f"tags.`{_TAG}` = '{run.id}'", max_results=1)
        if runs:
            client.update_run(runs[0].info.run_id, status="RUNNING")
            return _Session(client, runs[0].info.run_id)
        created = client.create_run(experiment, run_name=run.name, tags={_TAG: run.id}).info.run_id
        _log_params(client, created, run.config)
        return _Session(client, created)

    def scalars(self, session: "_Session", values: Mapping[str, float], step: int) -> None:
        metric, now = import_package("mlflow.entities", "mlflow").Metric, time.time_ns() // 1_000_000
        session.client.log_batch(session.run_id, [metric(name, value, now, step) for name, value in values.items()])

    def audio(self, session: "_Session", name: str, samples: np.ndarray, sample_rate: int, step: int) -> None:
        with tempfile.TemporaryDirectory(prefix="jaxgen-") as folder:
            path = Path(folder, f"step_{step}.wav")
            soundfile.write(path, samples, sample_rate, subtype="PCM_16")
            session.client.log_artifact(session.run_id, path, name)

    def image(self, session: "_Session", name: str, image: np.ndarray, step: int) -> None:
        session.client.log_image(session.run_id, image, artifact_file=f"{name}/step_{step}.png")

    def finish(self, session: "_Session") -> None:
        session.client.set_terminated(session.run_id)


@dataclasses.dataclass(frozen=True)
class _Session:
    client: Any
    run_id: str


def _log_params(client: Any, run_id: str, config: Mapping[str, Any]) -> None:
    param = import_package("mlflow.entities", "mlflow").Param
    params = [param(name, text[:_LONGEST_PARAM]) for name, text in _flat(config)]
    for first in range(0, len(params), _MOST_PARAMS):
        client.log_batch(run_id, params=params[first : first + _MOST_PARAMS])


def _flat(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of a JSON value, as (train.steps, 100)."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield place, str(value)
        return
    for name, item in items:
        yield from _flat(item, f"{place}.{name}" if place else str(name))
