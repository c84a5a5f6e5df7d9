"""Recordings to a store: every clip decoded and encoded once for each content and settings."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import math
import os
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxgen.audio import AudioError
from jaxgen.core.errors import UserError
from jaxgen.core.files import Corrupt, explain_write_errors, partial_folder, write_atomic, write_checksummed
from jaxgen.core.names import expand
from jaxgen.core.serial import content_hash, to_json
from jaxgen.data import report
from jaxgen.data.blocks import block_hashes
from jaxgen.data.clips import Dataset
from jaxgen.data.digests import FoundClip, find_clips, progress
from jaxgen.data.ingest import AudioPolicy, Block, Encoder, decibels, decode_clips
from jaxgen.data.score_ingest import EncodedScore, encode_scores
from jaxgen.data.score_report import excerpt
from jaxgen.data.store import SAMPLE_DTYPE, STORE_FORMAT, Index, Store, StoredClip, stream_file
from jaxgen.features import Example, FeatureSpec, ScoreSpec, StreamSpec
from jaxgen.scores.files import READERS

_VERIFIED_AT_ONCE = 1 << 30  # bytes of a store, which takes a second; of a larger one, each block when it is first read
_STEPS_AT_ONCE = 1 << 16  # that are in memory together
_EXCERPTS = 3  # of written music, in the data report
_SMALLEST_STD = 0.1  # nats; a band that is silent in all training clips may not be in another


def prepare(
    dataset: Dataset,
    features: FeatureSpec,
    policy: AudioPolicy,
    cache_dir: str | Path,
    streams: Mapping[str, StreamSpec] = types.MappingProxyType({}),
) -> Store:
    """Decodes and encodes every clip, in parallel and with progress; opens the store where that was done before.

    streams: further ones that are made of each clip, by name.
    Raises UserError where there is nothing to decode, too many clips are refused, or the cache cannot be written.
    """
    dataset = dataset.fetch(cache_dir)
    streams = {name: spec.settled() for name, spec in streams.items()}
    cache = Path(expand(cache_dir))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        found = find_clips(dataset, cache, pool)
        manifest = [[each.clip.name, each.digest, each.split, dict(each.clip.fields)] for each in found]
        made = [(name, streams[name].fingerprint()) for name in sorted(streams)]
        settings = [features.fingerprint(), dataclasses.asdict(policy), *([made] if made else [])]
        key = content_hash([STORE_FORMAT, manifest, *settings])[:24]
        directory = cache / "store" / key
        if (store := _opened(directory, found, features)) is None:
            for spec in streams.values():
                spec.check_clips({each.clip.name: each.clip.fields for each in found if not each.clip.refused})
            with explain_write_errors(cache), partial_folder(directory.parent) as partial:
                stored, refused = _write_clips(partial, found, features, streams, policy, pool)
                stored, misfits = _without_misfits(partial, stored, features, streams)
                refused += misfits
                _check_refused(len(found), refused, policy, features, cache / "refused.json")
                _write_index(partial, key, _with_validation(stored, dataset), refused, features, streams)
                _move(partial, directory)
            store = Store(directory)
    store.report = report.add_refused(store.report, dataset.list_skipped())  # may change while the clips do not
    if isinstance(features, ScoreSpec):
        store.report["pieces"] = _excerpts(store, features)
    return store


def _opened(directory: Path, found: Sequence[FoundClip], features: FeatureSpec) -> Store | None:
    """The store in a folder, verified unless it is large; None where there is none, or a damaged one, which is told and
    removed.
    """
    import filelock

    store, damage = _verified(directory, found, features)
    if damage:
        with explain_write_errors(directory), filelock.FileLock(directory.parent / ".lock"):
            store, damage = _verified(directory, found, features)  # another process may have made it anew meanwhile
            if damage:
                print(f"jaxgen: {damage}; the store is made anew from the recordings.", file=sys.stderr)
                with partial_folder(directory.parent) as aside, contextlib.suppress(FileNotFoundError):
                    os.rename(directory, aside / directory.name)
    return store


def _verified(directory: Path, found: Sequence[FoundClip], features: FeatureSpec) -> tuple[Store | None, str]:
    """The store in a folder, verified unless it is large, or what is wrong with it; neither where there is none."""
    try:
        store = Store(directory)
        there = {(each.clip.name, each.digest): dict(each.clip.fields) for each in found}
        same = all(there.get((clip.name, clip.digest)) == dict(clip.fields) for clip in store.clips)
        if not same or (store.key, store.features) != (directory.name, features):
            raise Corrupt(f"'{directory}' is the store of other recordings or settings")
        if store.size <= _VERIFIED_AT_ONCE:
            store.verify()
        return store, ""
    except FileNotFoundError:
        return None, f"'{directory}' has no index" if os.path.lexists(directory) else ""
    except Corrupt as error:
        return None, str(error)


def _with_validation(stored: Sequence[StoredClip], dataset: Dataset) -> list[StoredClip]:
    """The clips; where hashes leave none of several for validation, the one of the lowest digest is that."""
    train = [clip for clip in stored if clip.split == "train" and dataset.is_split_by_hash(clip.fields)]
    if len(train) < 2 or any(clip.split == "validation" for clip in stored):
        return list(stored)
    chosen = min(train, key=lambda clip: (clip.digest, clip.name))
    return [dataclasses.replace(clip, split="validation") if clip is chosen else clip for clip in stored]


def _write_clips(
    directory: Path,
    found: Sequence[FoundClip],
    features: FeatureSpec,
    streams: Mapping[str, StreamSpec],
    policy: AudioPolicy,
    pool: concurrent.futures.Executor,
) -> tuple[list[StoredClip], list[tuple[str, str]]]:
    """Writes samples and steps of all clips, one after another; returns those stored and (name, reason) of the others."""
    stored: list[StoredClip] = []
    refused: list[tuple[str, str]] = []
    clips = progress((each.clip for each in found), len(found), "decoding")
    with contextlib.ExitStack() as stack:
        names = ("samples", "steps", *map(stream_file, streams))
        files = {name: stack.enter_context((directory / f"{name}.bin").open("wb")) for name in names}
        decoded: Iterator[Any]
        write: Any
        if isinstance(features, ScoreSpec):
            decoded, write = encode_scores(clips, features, policy, pool), _write_score
        else:
            decoded, write = decode_clips(clips, features, policy, pool), _write_clip
        for each, content in zip(found, decoded, strict=True):
            ends = [(file, file.tell()) for file in files.values()]
            try:
                stored.append(write(each, content, features, streams, files))
            except AudioError as error:
                refused.append((each.clip.name, str(error)))
                for file, end in ends:  # a long clip may turn out to be refused at its end
                    file.seek(end)
                    file.truncate()
    return stored, refused


def _without_misfits(
    directory: Path, stored: Sequence[StoredClip], features: FeatureSpec, streams: Mapping[str, StreamSpec]
) -> tuple[list[StoredClip], list[tuple[str, str]]]:
    """The clips without those whose streams do not fit their sound, and (name, reason) of these; arrays are closed up."""
    seconds = [clip.num_samples / features.sample_rate for clip in stored]
    reasons: dict[int, str] = {}
    for name, spec in streams.items():
        reasons |= spec.misfits([clip.streams[name][1] for clip in stored], seconds)
    if not reasons:
        return list(stored), []
    kept = [clip for place, clip in enumerate(stored) if place not in reasons]
    sample_bytes = SAMPLE_DTYPE.itemsize * features.channels
    if not features.is_symbolic:
        _keep(directory / "samples.bin", [(c.sample_offset, c.num_samples) for c in kept], sample_bytes)
    _keep(directory / "steps.bin", [(c.step_offset, c.num_steps) for c in kept], _step_bytes(features))
    for name, spec in streams.items():
        size = spec.step_dtype.itemsize * math.prod(spec.step_shape)
        _keep(directory / f"{stream_file(name)}.bin", [c.streams[name] for c in kept], size)
    closed, samples, steps, values = [], 0, 0, dict.fromkeys(streams, 0)
    for clip in kept:
        places = {name: (values[name], clip.streams[name][1]) for name in streams}
        closed.append(dataclasses.replace(clip, sample_offset=samples, step_offset=steps, streams=places))
        samples, steps = samples + clip.num_samples, steps + clip.num_steps
        values = {name: start + count for name, (start, count) in places.items()}
    return closed, [(stored[place].name, reason) for place, reason in sorted(reasons.items())]


def _keep(path: Path, ranges: Sequence[tuple[int, int]], size: int) -> None:
    """Leaves of a file the items (first, count) of some ranges, in their order, of `size` bytes each."""
    with path.open("r+b") as file:
        end = 0
        for start, count in ranges:
            file.seek(start * size)
            content = file.read(count * size)
            file.seek(end)
            file.write(content)
            end += len(content)
        file.truncate(end)


def _write_clip(
    found: FoundClip,
    blocks: Iterator[Block],
    features: FeatureSpec,
    streams: Mapping[str, StreamSpec],
    files: Mapping[str, BinaryIO],
) -> StoredClip:
    """Appends samples, steps and streams of a clip. Raises AudioError, maybe after writing, where it is refused."""
    sample_file, step_file = files["samples"], files["steps"]
    sample_offset = sample_file.tell() // (SAMPLE_DTYPE.itemsize * features.channels)
    step_offset = step_file.tell() // _step_bytes(features)
    num_samples, num_steps, energy = 0, 0, 0.0
    encode = Encoder(features)
    held: list[np.ndarray] = []  # a stream is made of the whole clip
    for block in blocks:
        if streams:
            held.append(block.samples)
        sample_file.write(np.ascontiguousarray(block.samples, SAMPLE_DTYPE).data)
        num_samples += len(block.samples)
        energy += float(np.square(block.samples, dtype=np.float64).sum())
        for steps in encode(block.samples, block.is_last):
            step_file.write(np.ascontiguousarray(steps).data)
            num_steps += len(steps)
    example = Example(found.clip.fields, num_steps, np.concatenate(held) if held else np.zeros(0, np.float32))
    return StoredClip(
        name=found.clip.name,
        split=found.split,
        fields=dict(found.clip.fields),
        digest=found.digest,
        num_samples=num_samples,
        num_steps=num_steps,
        sample_offset=sample_offset,
        step_offset=step_offset,
        source_rate=block.source_rate,
        source_channels=block.source_channels,
        loudness_dbfs=decibels(math.sqrt(energy / (num_samples * features.channels))),
        source_peak=block.source_peak,
        peak=block.peak,
        trimmed=block.trimmed,
        streams={
            name: _write_stream(files[stream_file(name)], spec, example, features, found.clip.name)
            for name, spec in streams.items()
        },
    )


def _write_score(
    found: FoundClip,
    encoded: concurrent.futures.Future[EncodedScore],
    features: FeatureSpec,
    streams: Mapping[str, StreamSpec],
    files: Mapping[str, BinaryIO],
) -> StoredClip:
    """As `_write_clip`, of written music: its samples are made when somebody asks for them."""
    score, step_file = encoded.result(), files["steps"]
    step_offset, num_steps = step_file.tell() // _step_bytes(features), len(score.steps)
    step_file.write(np.ascontiguousarray(score.steps, features.step_dtype).data)
    example = score.example(found.clip)
    return StoredClip(
        name=found.clip.name,
        split=found.split,
        fields=dict(found.clip.fields),
        digest=found.digest,
        num_samples=features.num_samples(num_steps),
        num_steps=num_steps,
        sample_offset=features.num_samples(step_offset),
        step_offset=step_offset,
        source_rate=features.sample_rate,
        source_channels=features.channels,
        loudness_dbfs=0.0,
        source_peak=0.0,
        peak=0.0,
        streams={
            name: _write_stream(files[stream_file(name)], spec, example, features, found.clip.name)
            for name, spec in streams.items()
        },
        music=score.facts,
    )


def _write_stream(
    file: BinaryIO, spec: StreamSpec, example: Example, features: FeatureSpec, clip: str
) -> tuple[int, int]:
    """Appends a stream of a clip; where it begins, and how many values it has."""
    values = np.ascontiguousarray(spec.encode_clip(example, features), spec.step_dtype)
    size = math.prod(spec.step_shape)
    if values.shape[1:] != spec.step_shape or (spec.is_aligned and len(values) != example.num_steps):
        expected = example.num_steps if spec.is_aligned else "any number"
        shape = ", ".join(map(str, (expected, *spec.step_shape)))
        raise UserError(
            f"{type(spec).__name__} made {list(values.shape)} of '{clip}', expected [{shape}]; change the config's streams."
        )
    offset = file.tell() // (spec.step_dtype.itemsize * size)
    file.write(values.data)
    return offset, len(values)


def _write_index(
    directory: Path,
    key: str,
    stored: Sequence[StoredClip],
    refused: Sequence[tuple[str, str]],
    features: FeatureSpec,
    streams: Mapping[str, StreamSpec],
) -> None:
    mean, std = _mean_and_std(directory, [clip for clip in stored if clip.split == "train"], features)
    index = Index(
        key=key,
        features=features,
        clips=tuple(stored),
        refused=tuple(refused),
        mean=tuple(mean),
        std=tuple(std),
        hashes={
            name: tuple(block_hashes(directory / f"{name}.bin"))
            for name in ("samples", "steps", *map(stream_file, streams))
        },
        streams=tuple(sorted(streams.items())),
    )
    write_checksummed(directory / "index.json", json.dumps(to_json(index)))


def _mean_and_std(
    directory: Path, train: Sequence[StoredClip], features: FeatureSpec
) -> tuple[list[float], list[float]]:
    """Both over all steps of the clips, by dimension, in float64; empty for codes, and where there is no clip."""
    if not train or features.step_dtype.kind != "f":
        return [], []
    count = sum(clip.num_steps for clip in train)
    mean = sum(steps.sum(axis=0, dtype=np.float64) for steps in _read_steps(directory, train, features)) / count
    variance = sum(np.square(steps - mean).sum(axis=0) for steps in _read_steps(directory, train, features)) / count
    return mean.tolist(), np.maximum(np.sqrt(variance), _SMALLEST_STD).tolist()


def _read_steps(directory: Path, clips: Sequence[StoredClip], features: FeatureSpec) -> Iterator[np.ndarray]:
    """All steps of some clips, a bounded number at a time."""
    with (directory / "steps.bin").open("rb") as file:
        for clip in clips:
            for start in range(0, clip.num_steps, _STEPS_AT_ONCE):
                file.seek((clip.step_offset + start) * _step_bytes(features))
                count = min(_STEPS_AT_ONCE, clip.num_steps - start)
                steps = np.frombuffer(file.read(count * _step_bytes(features)), features.step_dtype)
                yield steps.reshape(count, *features.step_shape)


def _step_bytes(features: FeatureSpec) -> int:
    return features.step_dtype.itemsize * math.prod(features.step_shape)


def _excerpts(store: Store, features: ScoreSpec) -> list[dict[str, Any]]:
    """Beginnings of a few pieces, as a model sees them."""
    chosen = sorted({round(place) for place in np.linspace(0, len(store.clips) - 1, _EXCERPTS)})
    return [excerpt(store.clips[clip].name, features.decode_score(store.steps(clip))) for clip in chosen]


def _check_refused(
    total: int, refused: Sequence[tuple[str, str]], policy: AudioPolicy, features: FeatureSpec, listing: Path
) -> None:
    """Raises UserError where all or too many clips are refused, and lists them in a file."""
    if len(refused) < total and len(refused) <= policy.max_refused * total:
        return
    listed = [{"name": name, "reason": reason} for name, reason in refused]
    write_atomic(listing, json.dumps(listed, indent=2) + "\n")
    why = f"{report.count_kinds(reason for _, reason in refused)}; list in {listing}"
    remedies = collections.Counter(reason.partition("; ")[2] for _, reason in refused)
    remedy = remedies.most_common(1)[0][0]
    if len(refused) == total:
        what, usual = "audio", "with .wav, .flac, .ogg or .mp3 files, or change --data.pattern or --audio.*"
        if features.is_symbolic:
            what, usual = "written music", f"with {', '.join(READERS)} files, or change --features.*"
        advice = remedy or f"pass --data.root a folder {usual}"
        raise UserError(
            f"no {what} to train on: all {total} files were refused ({why}). {advice[:1].upper()}{advice[1:]}."
        )
    raise UserError(
        f"{len(refused)} of {total} files were refused ({why}), more than --audio.max-refused {policy.max_refused:g} "
        "allows. Mend or remove them, or raise it."
    )


def _move(partial: Path, directory: Path) -> None:
    try:
        os.rename(partial, directory)
    except OSError:
        if not (directory / "index.json").exists():  # else another process was faster, with the same content
            raise
