"""Layers and output distributions, to be used in anybody's own Flax code as well."""

from jaxgen.nn.recurrent import GRU, LSTM, RGLRU, RNN, MinGRU, MinLSTM, Stack

__all__ = ["GRU", "LSTM", "RGLRU", "RNN", "MinGRU", "MinLSTM", "Stack"]
