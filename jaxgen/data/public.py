"""Public data sets by name: downloaded once, checked against their SHA-256, unpacked, and read as a `Folder`."""

import dataclasses
import difflib
import hashlib
import os
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path

from jaxgen.core.errors import UserError
from jaxgen.core.files import partial_folder
from jaxgen.core.names import CACHE_DIR, UserPath, expand
from jaxgen.data.clips import Clip, Dataset, FieldIn, HashFraction, Split, SplitRule
from jaxgen.data.folder import Folder, fetch_root

_RETRIES = 2


@dataclasses.dataclass(frozen=True)
class SpeakerShare(SplitRule):
    """The speakers whose name hashes into a range of per cent: the official rule of Speech Commands (Warden 2018).

    Its lists of validation and test files are this rule for 0 to 10 and 10 to 20.
    """

    field: str = "speaker"
    """Field that names the speaker."""
    start: float = 0.0
    """Lowest per cent that belongs to the split."""
    stop: float = 10.0
    """First per cent that no longer does."""

    def matches(self, fields: Mapping[str, str], digest: str) -> bool:
        if self.field not in fields:
            raise UserError(f"the split is decided by the field '{self.field}', which a clip lacks; see data.pattern.")
        place = int(hashlib.sha1(fields[self.field].encode()).hexdigest(), 16) % 2**27
        return self.start <= place * 100 / (2**27 - 1) < self.stop

    def exclude(self, other: SplitRule) -> SplitRule:
        if not isinstance(other, SpeakerShare) or other.field != self.field:
            return self
        if self.start < other.stop and other.start < self.stop:
            raise UserError(
                f"data.validation and data.test both take speakers of the per cent {max(self.start, other.start):g} to "
                f"{min(self.stop, other.stop):g}; a clip belongs to one split."
            )
        return self


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a public data set comes from, and how its folder is read."""

    url: str
    """Address of a tar archive."""
    sha256: str
    """Of the archive, as published with the data or by a library that distributes it."""
    folder: str
    """Folder of the archive that holds the recordings."""
    pattern: str
    """`Folder.pattern`."""
    licence: str
    """Of the recordings."""
    validation: SplitRule
    """Which clips are for validation."""
    test: SplitRule | None = None
    """Which clips are for the test."""


SOURCES: Mapping[str, Source] = {
    "fsdd": Source(  # spoken digits, 5 speakers, 12 MB; checksum: tensorflow_datasets spoken_digit
        url="https://github.com/Jakobovski/free-spoken-digit-dataset/archive/v1.0.9.tar.gz",
        sha256="8bc44cde129d505cbbb6b365c09f80c663f2aa77578afc634e6141a2f87100c0",
        folder="free-spoken-digit-dataset-1.0.9/recordings",
        pattern="{digit}_{speaker}_{index}",
        licence="CC BY-SA 4.0",
        validation=FieldIn("index", range(5, 10)),
        test=FieldIn("index", range(5)),
    ),
    "speech_commands": Source(  # 35 words, 2,618 speakers, 2.4 GB; checksum: torchaudio
        url="http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
        sha256="af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
        folder="",
        pattern="{word}/{speaker}_nohash_{index}",
        licence="CC BY 4.0",
        validation=SpeakerShare(start=0, stop=10),
        test=SpeakerShare(start=10, stop=20),
    ),
    "yesno": Source(  # 60 times eight Hebrew words, one speaker, 5 MB; checksum: torchaudio
        url="http://www.openslr.org/resources/1/waves_yesno.tar.gz",
        sha256="c3f49e0cca421f96b75b41640749167b52118f232498667ca7a5f9416aef8e73",
        folder="waves_yesno",
        pattern="{words}",
        licence="see openslr.org/1",
        validation=HashFraction(0.1),
    ),
    "ljspeech": Source(  # 24 h of one English reader, 2.7 GB; checksum: torchaudio
        url="https://data.keithito.com/data/speech/LJSpeech-1.1.tar.bz2",
        sha256="be1a30453f28eb8dd26af4101ae40cbf2c50413b1bb21936cbcdc6fae3de8aa5",
        folder="LJSpeech-1.1/wavs",
        pattern="{book}-{utterance}",
        licence="public domain",
        validation=HashFraction(0.02),
    ),
}


@dataclasses.dataclass(frozen=True)
class PublicDataset(Dataset):
    """A public data set: fsdd, speech_commands, yesno or ljspeech. Downloaded on first use, unless `root` is given."""

    name: str = "fsdd"
    """fsdd, speech_commands, yesno or ljspeech."""
    root: UserPath = ""
    """A local copy, unpacked: with it nothing is downloaded."""
    cache_dir: str = f"{CACHE_DIR}/datasets"
    """Where downloads are kept."""

    def __post_init__(self) -> None:
        if self.name not in SOURCES:
            near = difflib.get_close_matches(self.name, SOURCES, n=1)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise UserError(f"unknown data set '{self.name}' in data.name, expected one of {', '.join(SOURCES)}{hint}")

    @property
    def pattern(self) -> str | None:
        return SOURCES[self.name].pattern

    def fetch(self, cache_dir: str | Path) -> "PublicDataset":
        return dataclasses.replace(self, root=fetch_root(self.root, cache_dir))

    def clips(self) -> list[Clip]:
        """The recordings; other sounds of the archive, such as background noise, are named otherwise and left out.

        Raises UserError where they can neither be downloaded nor found.
        """
        folder = self._folder(self._local_root() if self.root else self._download_root())
        wanted = set(re.findall(r"{(\w+)}", SOURCES[self.name].pattern))
        clips = [clip for clip in folder.clips() if wanted <= clip.fields.keys()]
        if not clips:
            raise UserError(
                f"no recording of '{self.name}' in '{folder.root}': no file is named {SOURCES[self.name].pattern}. "
                "Pass --data.root the data set's own folder."
            )
        return clips

    def list_skipped(self) -> list[tuple[str, str]]:
        """As of a `Folder`, and the other sounds of the archive."""
        folder = self._folder(self._local_root() if self.root else self._download_root())
        return folder.list_skipped() + [(clip.name, clip.refused) for clip in folder.clips() if clip.refused]

    def split_of(self, fields: Mapping[str, str], digest: str) -> Split:
        return self._folder(Path(self.root)).split_of(fields, digest)

    def _folder(self, root: Path) -> Folder:
        source = SOURCES[self.name]
        return Folder(
            root=str(root),
            pattern=source.pattern,
            validation=source.validation,
            test=source.test,
            licence=source.licence,
        )

    def _local_root(self) -> Path:
        """The folder of recordings in a copy that starts at the archive's root, or that folder itself."""
        root = Path(expand(self.root))
        inside = root / SOURCES[self.name].folder
        return inside if inside.is_dir() else root

    def _download_root(self) -> Path:
        """The folder of recordings in the cache, downloaded and unpacked on first use."""
        source = SOURCES[self.name]
        cache = Path(expand(self.cache_dir))
        unpacked = cache / f"{self.name}-{source.sha256[:12]}"
        if not unpacked.is_dir():
            archive = _download(self.name, source, cache)
            _unpack(archive, unpacked)
            archive.unlink(missing_ok=True)
        return unpacked / source.folder


def _download(name: str, source: Source, cache: Path) -> Path:
    """The archive, complete and with the right checksum. Raises UserError where that is not to be had."""
    import pooch

    archive = source.url.rsplit("/", 1)[-1]
    shelf = pooch.create(
        path=cache,
        base_url="",
        registry={archive: f"sha256:{source.sha256}"},
        urls={archive: source.url},
        retry_if_failed=_RETRIES,
    )
    try:
        return Path(shelf.fetch(archive, progressbar=True))
    except ValueError as error:  # pooch has removed the file
        raise UserError(
            f"{source.url} is not the file it was: its SHA-256 differs from {source.sha256[:12]}...; nothing was kept. "
            "Try again, or pass --data.root a copy you trust."
        ) from error
    except OSError as error:
        raise UserError(
            f"cannot download '{name}' from {source.url} ({error.strerror or type(error).__name__}); "
            "check the network and data.cache_dir, or pass --data.root a local copy, unpacked."
        ) from error


def _unpack(archive: Path, folder: Path) -> None:
    """Unpacks a tar archive into a new folder that appears only once it is complete.

    Raises UserError where it cannot be, or has a member that would lead out of the folder.
    """
    try:
        with partial_folder(folder.parent) as partial:
            with tarfile.open(archive) as tar:
                tar.extractall(partial / "content", filter="data")
            os.replace(partial / "content", folder)
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{archive} cannot be unpacked ({error}); pass --data.root a copy you trust.") from None
    except OSError as error:
        if not folder.is_dir():  # another process may have been first
            raise UserError(
                f"cannot unpack {archive} ({error.strerror or error}); free some space or change data.cache_dir."
            ) from error
