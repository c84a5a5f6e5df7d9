"""Generation in onnxruntime: the whole loop is one graph, an ONNX `Scan` over random numbers drawn before it.

Each step is the product of input and hidden state with all their weights at once, the gates, the head, and the inverse of
the cumulative distribution. It was faster than calling a graph of one step from Python.
"""

import os
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks.generate_peers.given import SILENCE, Given, as_candidate, load

_OPSET, _IR = 17, 8
_FLOAT, _INT = TensorProto.FLOAT, TensorProto.INT64


class Network:
    """One session; teacher forcing (codes are given) and free running are two graphs around the same step."""

    def __init__(self, given: Given, streams: int) -> None:
        self._given, self._streams = given, streams
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0"))  # 0: all cores
        self._session = onnxruntime.InferenceSession(
            _model(given, streams).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def logits(self) -> np.ndarray:
        """After each of the given codes [S, 256]: the loop starts anew from each code and the carry before it."""
        carry, found = self._zeros(), []
        for code in self._given.codes:
            _, logits, *carry = self._run(np.full(self._streams, code, np.int64), carry, 1)
            found.append(logits[0, -1])
        return np.stack(found)

    def generate(self, steps: int) -> np.ndarray:
        """Codes [streams, steps]."""
        return self._run(np.full(self._streams, SILENCE, np.int64), self._zeros(), steps, ["codes"])[0].T

    def _run(self, codes: np.ndarray, carry: list[np.ndarray], steps: int, asked: list[str] | None = None) -> Any:
        uniform = np.random.default_rng().random((steps, self._streams, 1), np.float32)
        feeds = {"code": codes, "h": carry[0], "c": carry[1], "uniform": uniform}
        return self._session.run(asked or ["codes", "logits", "last_h", "last_c"], feeds)

    def _zeros(self) -> list[np.ndarray]:
        return [np.zeros((self._streams, self._given.hidden_size), np.float32) for _ in range(2)]


def _model(given: Given, streams: int) -> Any:
    """code [B], h, c [B, H], uniform [T, B, 1] -> codes [T, B], logits [T, B, 256], last_h, last_c."""
    hidden, levels = given.hidden_size, len(given.head_bias)
    state: list[tuple[str, int, list[Any]]] = [
        ("code", _INT, [streams]),
        ("h", _FLOAT, [streams, hidden]),
        ("c", _FLOAT, [streams, hidden]),
    ]
    body = helper.make_graph(
        _step(),
        "step",
        [_value(*entry) for entry in (*state, ("u", _FLOAT, [streams, 1]))],
        [_value(f"new_{name}", kind, shape) for name, kind, shape in state]
        + [_value("drawn", _INT, [streams]), _value("step_logits", _FLOAT, [streams, levels])],
        [numpy_helper.from_array(array, name) for name, array in _constants(given).items()],
    )
    names = ["code", "h", "c", "uniform"]
    results = ["last_code", "last_h", "last_c", "codes", "logits"]
    loop = helper.make_node("Scan", names, results, body=body, num_scan_inputs=1)
    graph = helper.make_graph(
        [loop],
        "generate",
        [_value(*entry) for entry in (*state, ("uniform", _FLOAT, ["steps", streams, 1]))],
        [_value("codes", _INT, ["steps", streams]), _value("logits", _FLOAT, ["steps", streams, levels])]
        + [_value(f"last_{name}", kind, shape) for name, kind, shape in state],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)


def _constants(given: Given) -> dict[str, np.ndarray]:
    """What the step reads. The code as a number is one more feature of its embedding."""
    values = np.arange(len(given.embedding), dtype=np.float32)[:, None] * (2 / 256) - 1
    return {
        "inputs": np.concatenate([given.embedding, values], axis=1).astype(np.float32),
        "weights": np.concatenate([given.input, given.recurrent]),
        "bias": given.bias,
        "head_kernel": given.head_kernel,
        "head_bias": given.head_bias,
        "axis": np.array(1, np.int64),
        "axes": np.array([1], np.int64),
        "highest": np.array(len(given.head_bias) - 1, np.int64),
    }


def _step() -> list[Any]:
    """Nodes: outputs, operator, inputs, attributes."""
    lines: list[tuple[list[str], str, list[str], dict[str, Any]]] = [
        (["x"], "Gather", ["inputs", "code"], {}),
        (["xh"], "Concat", ["x", "h"], {"axis": 1}),
        (["z"], "Gemm", ["xh", "weights", "bias"], {}),
        (["zi", "zf", "zo", "zg"], "Split", ["z"], {"axis": 1}),
        (["i"], "Sigmoid", ["zi"], {}),
        (["f"], "Sigmoid", ["zf"], {}),
        (["o"], "Sigmoid", ["zo"], {}),
        (["g"], "Tanh", ["zg"], {}),
        (["kept"], "Mul", ["f", "c"], {}),
        (["added"], "Mul", ["i", "g"], {}),
        (["new_c"], "Add", ["kept", "added"], {}),
        (["shown"], "Tanh", ["new_c"], {}),
        (["new_h"], "Mul", ["o", "shown"], {}),
        (["step_logits"], "Gemm", ["new_h", "head_kernel", "head_bias"], {}),
        (["probs"], "Softmax", ["step_logits"], {"axis": 1}),
        (["sums"], "CumSum", ["probs", "axis"], {}),
        (["below"], "Less", ["sums", "u"], {}),
        (["passed"], "Cast", ["below"], {"to": _INT}),
        (["index"], "ReduceSum", ["passed", "axes"], {"keepdims": 0}),
        (["new_code"], "Min", ["index", "highest"], {}),
        (["drawn"], "Identity", ["new_code"], {}),
    ]
    return [helper.make_node(kind, inputs, outputs, **rest) for outputs, kind, inputs, rest in lines]


def _value(name: str, kind: int, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """spec: `file` of `given.load`, `streams`, `steps`."""
    return as_candidate(Network(load(spec), spec["streams"]), spec["steps"])
