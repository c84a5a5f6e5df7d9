"""Recurrent cells and stacks of them."""

from jaxgen.recurrent.cell import Carry, Cell, Params
from jaxgen.recurrent.gated import GRU, LSTM, RNN, GatedCell
from jaxgen.recurrent.linear import RGLRU, LinearCell, MinGRU, MinLSTM
from jaxgen.recurrent.stack import Stack

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
