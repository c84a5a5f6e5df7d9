"""Recurrent cells and stacks of them."""

from jaxgen.recurrent.cell import Carry, Cell, Params
from jaxgen.recurrent.gated import GRU, LSTM, RNN, GatedCell
from jaxgen.recurrent.stack import Stack

__all__ = ["GRU", "LSTM", "RNN", "Carry", "Cell", "GatedCell", "Params", "Stack"]
