"""Digests of recordings: what identifies their content, remembered for as long as the files stay as they are."""

import concurrent.futures
import dataclasses
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from jaxgen.audio import AudioError
from jaxgen.core.errors import UserError
from jaxgen.core.files import Corrupt, explain_write_errors, read_checksummed, write_checksummed
from jaxgen.core.serial import content_hash
from jaxgen.data.clips import Clip, Dataset, Split

T = TypeVar("T")

_VERSION = 1  # of the file of digests
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class FoundClip:
    """A clip that is not yet decoded."""

    clip: Clip
    digest: str
    """Of its content, or of why that cannot be read."""
    split: Split = "train"
    is_read: bool = True


def find_clips(dataset: Dataset, cache: Path, pool: concurrent.futures.Executor) -> list[FoundClip]:
    """The clips with their digests. Those are remembered until a clip's stamp changes, as reading hundreds of gigabytes
    delays every start; what could not be read is not.
    """
    clips, place = dataset.clips(), cache / "digests" / f"{content_hash([_VERSION, repr(dataset)])[:24]}.json"
    known = _remembered(place)
    new = [clip for clip in clips if clip.stamp not in known]
    read = iter(list(progress(pool.map(_digested, new), len(new), "reading")))
    found = [FoundClip(clip, known[clip.stamp]) if clip.stamp in known else next(read) for clip in clips]
    kept = {each.clip.stamp: each.digest for each in found if each.clip.stamp and each.is_read}
    if kept != known:
        try:
            with explain_write_errors(place):
                place.parent.mkdir(parents=True, exist_ok=True)
            write_checksummed(place, json.dumps(kept))
        except UserError as error:
            print(f"jaxgen: {error} The next start reads all recordings again.", file=sys.stderr)
    return [
        each if each.clip.refused else dataclasses.replace(each, split=dataset.split_of(each.clip.fields, each.digest))
        for each in found
    ]


def _digested(clip: Clip) -> FoundClip:
    try:
        return FoundClip(clip, clip.digest())
    except AudioError as error:
        refused = dataclasses.replace(clip, refused=clip.refused or str(error))
        return FoundClip(refused, content_hash([clip.name, str(error)]), is_read=False)


def _remembered(place: Path) -> dict[str, str]:
    """The digests of files by their stamps; none where they are damaged, which is told."""
    try:
        known = json.loads(read_checksummed(place))
        if not all(isinstance(stamp, str) and _DIGEST.fullmatch(digest) for stamp, digest in known.items()):
            raise Corrupt(f"'{place}' holds no digests")
        return known
    except FileNotFoundError:
        return {}
    except (Corrupt, ValueError, TypeError, AttributeError, RecursionError) as damage:
        print(f"jaxgen: {damage}; all recordings are read again.", file=sys.stderr)
        return {}


def progress(items: Iterable[T], total: int, what: str) -> Iterable[T]:
    """The items, with a bar on a terminal that counts them."""
    return tqdm(items, total=total, unit="clip", desc=what, disable=not sys.stderr.isatty(), leave=False)
