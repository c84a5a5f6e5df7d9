"""Where the figures, clips and pictures of a training go, beside metrics.jsonl: one frozen dataclass a place."""

from jaxgen.loggers.logger import Logger, RunDescription
from jaxgen.loggers.mlflow import MLflow
from jaxgen.loggers.tensorboard import TensorBoard
from jaxgen.loggers.wandb import WandB

__all__ = ["Logger", "MLflow", "RunDescription", "TensorBoard", "WandB"]
