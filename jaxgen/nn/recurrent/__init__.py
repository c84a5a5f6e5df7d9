"""Recurrent cells and stacks of them."""

from jaxgen.nn.recurrent.cell import Carry, Cell, Params
from jaxgen.nn.recurrent.gated import GRU, LSTM, RNN, GatedCell
from jaxgen.nn.recurrent.linear import RGLRU, LinearCell, MinGRU, MinLSTM
from jaxgen.nn.recurrent.stack import Stack

__all__ = [
    "GRU",
    "LSTM",
    "RGLRU",
    "RNN",
    "Carry",
    "Cell",
    "GatedCell",
    "LinearCell",
    "MinGRU",
    "MinLSTM",
    "Params",
    "Stack",
]
