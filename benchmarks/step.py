"""Throughput of the real train step, beside a plain JAX scan and, where it is installed, PyTorch's nn.LSTM.

    python -m benchmarks.step [--hidden-size 256] [--batch-size 32] [--seq-len 256] [--record]

All candidates do the same work: one update of a language model over 256 mu-law codes (embedding 64, one LSTM layer,
softmax cross-entropy, Adam, gradient clipping). The limit is the matrix product, whose peak is measured in between.
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.measure import Row, alternate, finish, matmul, parser
from jaxgen.data.spec import DataSpec
from jaxgen.features import MuLaw
from jaxgen.models.wave_rnn import WaveRNN
from jaxgen.objectives.likelihood import Likelihood
from jaxgen.objectives.optimizer import AdamW
from jaxgen.recurrent import LSTM

Q_LEVELS, EMBEDDING, SAMPLE_RATE = 256, 64, 8_000
PEAK_RATE, CLIP_NORM, EMA_DECAY = 1e-3, 1.0, 0.998


def gflop_per_step(hidden: int, batch: int, steps: int) -> float:
    """Arithmetic of one update: 2 per weight forward, 4 backward, for each sample; only matrix products count."""
    weights = EMBEDDING * 4 * hidden + hidden * 4 * hidden + hidden * Q_LEVELS
    return 6 * weights * batch * steps / 1e9


def jaxgen_step(hidden: int, codes: np.ndarray) -> Callable[[], Any]:
    """The train step of `jaxgen.train`, jitted and with its state donated."""
    batch_size, seq_len = codes.shape[0], codes.shape[1] - 1
    model = WaveRNN(cell=LSTM(hidden_size=hidden), embedding_size=EMBEDDING)
    objective = Likelihood(optimizer=AdamW(peak=PEAK_RATE, clip_norm=CLIP_NORM), ema_decay=EMA_DECAY)
    spec = DataSpec(features=MuLaw(sample_rate=SAMPLE_RATE))
    training = objective.bind(model, spec, steps=10**6, batch_size=batch_size)
    flags = np.zeros((batch_size, seq_len), bool)
    batch = {"x": codes, "reset": flags, "mask": ~flags, "end": flags, "labels": {}}
    step = jax.jit(training.train_step, donate_argnums=0)
    state = [training.init(jax.random.key(0))]

    def run() -> Any:
        state[0], metrics = step(state[0], batch)
        return state[0], metrics

    return run


def plain_scan_step(hidden: int, codes: np.ndarray) -> Callable[[], Any]:
    """What one would write first: `lax.scan` over x W + h U, differentiated by JAX, the same optimiser and average."""
    keys = jax.random.split(jax.random.key(0), 4)
    scale = hidden**-0.5
    params = {
        "embedding": jax.random.normal(keys[0], (Q_LEVELS, EMBEDDING)),
        "input": scale * jax.random.normal(keys[1], (EMBEDDING, 4 * hidden)),
        "recurrent": scale * jax.random.normal(keys[2], (hidden, 4 * hidden)),
        "bias": jnp.zeros(4 * hidden),
        "head": scale * jax.random.normal(keys[3], (hidden, Q_LEVELS)),
    }
    optimizer = optax.chain(optax.clip_by_global_norm(CLIP_NORM), optax.adam(PEAK_RATE))

    def loss(params: Any, codes: jax.Array) -> jax.Array:
        def cell(carry: Any, x: jax.Array) -> Any:
            h, c = carry
            i, f, o, g = jnp.split(x @ params["input"] + h @ params["recurrent"] + params["bias"], 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        start = jnp.zeros((codes.shape[0], hidden))
        inputs = jnp.swapaxes(params["embedding"][codes[:, :-1]], 0, 1)
        _, hs = jax.lax.scan(cell, (start, start), inputs)
        logits = hs @ params["head"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, codes[:, 1:].T).mean()

    def update(state: Any, codes: jax.Array) -> Any:
        params, average, moments = state
        updates, moments = optimizer.update(jax.grad(loss)(params, codes), moments, params)
        params = optax.apply_updates(params, updates)
        return params, optax.incremental_update(params, average, 1 - EMA_DECAY), moments

    step = jax.jit(update, donate_argnums=0)
    state = [(params, jax.tree.map(jnp.copy, params), optimizer.init(params))]
    integer = codes.astype(np.int32)

    def run() -> Any:
        state[0] = step(state[0], integer)
        return state[0]

    return run


def torch_step(hidden: int, codes: np.ndarray) -> Callable[[], Any]:
    """PyTorch's nn.LSTM (oneDNN on CPU, cuDNN on GPU), eager, with the same optimiser and average."""
    import torch

    device = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
    embedding = torch.nn.Embedding(Q_LEVELS, EMBEDDING).to(device)
    recurrent = torch.nn.LSTM(EMBEDDING, hidden, batch_first=True).to(device)
    head = torch.nn.Linear(hidden, Q_LEVELS).to(device)
    params = [*embedding.parameters(), *recurrent.parameters(), *head.parameters()]
    average = [p.detach().clone() for p in params]
    optimizer = torch.optim.Adam(params, lr=PEAK_RATE)
    integer = torch.as_tensor(codes.astype(np.int64), device=device)

    def run() -> float:
        optimizer.zero_grad()
        outputs, _ = recurrent(embedding(integer[:, :-1]))
        logits = head(outputs)
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, Q_LEVELS), integer[:, 1:].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, CLIP_NORM)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, params, 1 - EMA_DECAY)
        return loss.item()

    return run


def main(argv: Sequence[str] | None = None) -> list[Row]:
    options = parser(__doc__)
    options.add_argument("--hidden-size", type=int, default=256)
    options.add_argument("--batch-size", type=int, default=32)
    options.add_argument("--seq-len", type=int, default=256)
    asked = options.parse_args(argv)
    hidden, batch, steps = asked.hidden_size, asked.batch_size, asked.seq_len
    codes = np.random.default_rng(0).integers(Q_LEVELS, size=(batch, steps + 1)).astype(np.uint8)
    peak, peak_gflop = matmul()
    candidates = {"jaxgen": jaxgen_step(hidden, codes), "plain scan": plain_scan_step(hidden, codes)}
    if importlib.util.find_spec("torch"):
        candidates["PyTorch"] = torch_step(hidden, codes)
    else:
        print("torch is not installed: no such peer (pip install -e '.[bench]')", file=sys.stderr)
    seconds = alternate({"matmul": peak, **candidates}, asked.repeats)
    peak_rate = peak_gflop / seconds["matmul"]
    gflop = gflop_per_step(hidden, batch, steps)
    rows = [
        {
            "candidate": name,
            "hidden_size": hidden,
            "batch_size": batch,
            "seq_len": steps,
            "ms_per_step": 1e3 * seconds[name],
            "samples_per_second": batch * steps / seconds[name],
            "gflop_per_second": gflop / seconds[name],
            "share_of_matmul_peak": gflop / seconds[name] / peak_rate,
            "time_over_jaxgen": seconds[name] / seconds["jaxgen"],
        }
        for name in candidates
    ]
    print(f"matmul peak {peak_rate:.1f} GFLOP/s; {gflop:.2f} GFLOP a step", file=sys.stderr)
    return finish("step", rows, record=asked.record)


if __name__ == "__main__":
    main()
