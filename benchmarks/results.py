"""The table of a results page: `python -m benchmarks.results REPORT.json...` prints Markdown from what evaluations found."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxgen.core.errors import UserError, run

_GENERATED, _REAL = "generated", "held-out data"
_WORDS = {
    "db2": "(dB²)",
    "db": "(dB)",
    "hz": "(Hz)",
    "mse": "mean squared error",
    "am": "AM",
    "pesq": "PESQ",
    "stoi": "STOI",
    "dnsmos": "DNSMOS",
    "ovrl": "overall",
    "p808": "P.808",
    "frechet": "Fréchet",
    "stft": "STFT",
    "p10": "10 %",
    "p50": "median",
    "p90": "90 %",
}


def main(argv: Sequence[str]) -> str:
    """The table of these reports, a column each, and the held-out recordings of the first.

    Raises UserError for a file that no evaluation wrote.
    """
    if not argv or any(path.startswith("-") for path in argv):
        raise UserError("expected files named report.json; run python -m benchmarks.results REPORT.json...")
    reports = [_read(path) for path in argv]
    names = dict.fromkeys(name for report in reports for name in _figures(report))
    rows = [
        [_words(name), *(_cell(_figures(report).get(name)) for report in reports), _cell(_real(reports[0]).get(name))]
        for name in names
    ]
    head = ["", *(_title(report) for report in reports), "real, held out"]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def _read(path: str) -> Mapping[str, Any]:
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"'{path}' cannot be read as a report ({error}); pass the report.json of an evaluation."
        ) from None
    if not isinstance(report, dict) or not {"about", "metrics", "table"} <= report.keys():
        raise UserError(f"'{path}' is no report of jaxgen; pass the report.json of an evaluation.")
    return report


def _figures(report: Mapping[str, Any]) -> dict[str, Any]:
    """What clips are like, then what the model scores."""
    return report["table"].get(_GENERATED, {}) | report["metrics"]


def _real(report: Mapping[str, Any]) -> Mapping[str, Any]:
    return report["table"].get(_REAL, {})


def _title(report: Mapping[str, Any]) -> str:
    about = report["about"]
    return f"{Path(about['run']).name or about['run']}, {about['checkpoint']}"


def _words(name: str) -> str:
    return " ".join(_WORDS.get(word, word) for word in name.split("_"))


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


if __name__ == "__main__":
    run(lambda: print(main(sys.argv[1:])))
