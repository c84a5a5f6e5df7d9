"""Speed of free-running generation beside its peers', once compiled: `python -m benchmarks.generate`.

A row is a size and a number of streams, lstm-H-streams; `benchmarks/generate_work.py` says what is made,
`benchmarks/generate_peers/` how each framework does it. All have the same weights, each its own process with the same
threads, and take turns. A peer counts only if its logits are jaxgen's. What is timed of jaxgen is the stream of samples
that `jaxgen.generate` writes, of peers the codes alone. Ratios are medians over rounds of throughput.
"""

import dataclasses
import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure
from benchmarks.generate_work import SAMPLE_RATE, GenerateWork, given, rows_named
from benchmarks.measure import Row
from benchmarks.processes import ALL_THREADS, Candidate, Measured, compare
from jaxgen.config import parse
from jaxgen.core.errors import UserError

_OURS = "jaxgen"
_COLUMNS = ("row", "us_per_step", "samples_per_s", "real_time_factor", "cost_of_one_stream", "first_audio_seconds")
_TOLERANCE = 1e-4  # of logits, which are about 1

PEERS = {
    "torch": ("torch", "torch_eager"),
    "torch-compile": ("torch", "torch_compiled"),
    "torch-script": ("torch", "torch_script"),
    "onnxruntime": ("onnx", "onnx_scan"),  # the bench extra alone has it; onnxruntime comes with others too
}
"""What must be installed for a peer, and its candidate in `benchmarks/generate_peers/`."""


@dataclasses.dataclass(frozen=True)
class Options(measure.Repeated):
    """Speed of free-running generation: jaxgen and its peers."""

    rows: tuple[str, ...] = ()
    """What is measured, as lstm-H-streams, e.g. lstm-256-8; none takes all."""
    peers: tuple[str, ...] = tuple(PEERS)
    """Whom jaxgen is measured against: torch (eager), torch-compile, torch-script, onnxruntime."""
    threads: int = ALL_THREADS
    """Threads, each on a core, that each may use."""
    steps: int = 4_000
    """Samples of each stream."""
    row_seconds: float = 60.0
    """Time after which a row begins no further round, if it has two."""
    json: str = ""
    """File to write one JSON line a row to."""


def main(argv: Sequence[str]) -> list[Row]:
    """Measures, prints and returns the figures. Raises UserError for a row or peer that is not known."""
    options = parse(Options, Options(), argv, "python -m benchmarks.generate")
    works, peers = rows_named(options.rows), _installed(options.peers)
    place = measure.environment()
    measure.save([], options.json)
    rows: list[Row] = []
    for work in works:
        rows.append(_measured(work, peers, options))
        alone = [row for row in rows if row["row"] == f"lstm-{work.hidden_size}-1"]
        if alone:
            rows[-1]["cost_of_one_stream"] = float(rows[-1]["us_per_step"]) / float(alone[0]["us_per_step"])
        measure.save(rows, options.json)
    measure.report(rows, place, options, (*_COLUMNS, *(ratio_name(peer) for peer in peers)))
    return rows


def _measured(work: GenerateWork, peers: Mapping[str, str], options: Options) -> Row:
    measure.say(f"{work.name}: {', '.join(peers) or 'no peers'} ...")
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder, "given.npz"))
        given(work).save(file)
        spec = {"file": file, "streams": work.streams, "steps": options.steps}
        ours = {"work": dataclasses.asdict(work), "steps": options.steps}
        results = compare(
            [
                Candidate(_OURS, "benchmarks.generate_peers.ours", ours),
                *(Candidate(name, f"benchmarks.generate_peers.{module}", spec) for name, module in peers.items()),
            ],
            options.repeats,
            threads=options.threads,
            say=lambda text: measure.say(f"{work.name}: {text}"),
            refuse=disagreeing,
            required=(_OURS,),
            row_seconds=options.row_seconds,
        )
    return figures(work, results, options)


def disagreeing(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Peers whose logits are not jaxgen's, and how it shows, from the facts of all candidates."""
    ours, refused = np.array(facts[_OURS]["logits"]), {}
    for name, theirs in facts.items():
        away = float(np.abs(np.array(theirs["logits"]) - ours).max())
        if not away <= _TOLERANCE:
            refused[name] = f"its logits are up to {away:.2g} away from jaxgen's"
        elif theirs["distinct_codes"] < 2:
            refused[name] = "it generates nothing but one code"
    return refused


def figures(work: GenerateWork, results: Mapping[str, Measured], options: Options) -> Row:
    """The row of the table: jaxgen's figures, and for each peer its time and the ratio of throughputs, above 1 where
    jaxgen is faster. real_time_factor is that of each stream.
    """
    ours = results[_OURS]
    seconds = np.array(ours.seconds) / options.steps
    per_step = float(np.median(seconds))
    row: Row = {
        "benchmark": "generate",
        "row": work.name,
        "streams": work.streams,
        "hidden_size": work.hidden_size,
        "threads": options.threads,
        "rounds": len(seconds),
        **{f"step_{name}": value for name, value in measure.spread(seconds).items()},
        "us_per_step": 1e6 * per_step,
        "samples_per_s": work.streams / per_step,
        "real_time_factor": 1 / per_step / SAMPLE_RATE,
        "first_audio_seconds": ours.facts["first_audio_seconds"],
        "peak_bytes": ours.peak_bytes,
    }
    if shares := [result.others for result in results.values() if result.others is not None]:
        row["others_share_of_cores"] = max(shares)
    for name, peer in results.items():
        if name != _OURS:
            theirs = np.array(peer.seconds) / options.steps
            row[ratio_name(name)] = measure.median_ratio(theirs, seconds)
            row[f"{name.replace('-', '_')}_us_per_step"] = 1e6 * float(np.median(theirs))
    return row


def ratio_name(peer: str) -> str:
    """What jaxgen's throughput over a peer's is filed under."""
    return f"ratio_to_{peer.replace('-', '_')}"


def _installed(names: Sequence[str]) -> dict[str, str]:
    """Modules of the peers that can run here; whoever cannot is told once. Raises UserError for an unknown name."""
    if unknown := [name for name in names if name not in PEERS]:
        raise UserError(f"--peers has '{unknown[0]}', but the peers are {', '.join(PEERS)}.")
    found = {}
    for name in names:
        library, module = PEERS[name]
        if importlib.util.find_spec(library):
            found[name] = module
        else:
            measure.say(f"{name} could not run: {library} is not installed (pip install 'jaxgen[bench]')")
    return found


if __name__ == "__main__":
    measure.start(main)
