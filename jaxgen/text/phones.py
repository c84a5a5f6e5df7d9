"""Phones of a text, by an installed espeak-ng or espeak: a program of its own, which is started, never linked."""

import re
import shutil
import subprocess
import unicodedata
from pathlib import Path

from jaxgen.core.errors import UserError
from jaxgen.core.files import Corrupt, explain_write_errors, read_checksummed, write_checksummed
from jaxgen.core.serial import content_hash
from jaxgen.text.language import MARKS

PHONES = MARKS.replace('"', "").replace("'", "") + (
    "abcdefghijklmnopqrstuvwxyzæçðøħŋœǀǁǂǃɐɑɒɓɔɕɖɗɘəɚɛɜɝɞɟɠɡɢɣɤɥɦɧɨɩɪɫɬɭɮɯɰɱɲɳɴɵɶɸɹɺɻɽɾʀʁʂʃʄʈʉʊʋʌʍʎʏʐʑʒʔʕʘʙʛʜʝʟʡʢʰʲʷˈˌːˑ˞βθχᵻⱱ"
    "\u0303\u0329\u032f\u0361\u030a\u0325"
)
"""Signs of the phonetic alphabet, and marks of pauses, that are told apart."""

_PROGRAMS = ("espeak-ng", "espeak")
_SECONDS = 20.0  # that one clause may take
_CLAUSE = re.compile(r"([,.;:!?()]+|(?<= )-(?= ))")
_LANGUAGE_SWITCH = re.compile(r"\([a-z-]+\)")


def transcribe(text: str, voice: str, cache: Path) -> str:
    """Phones of spoken text, as `normalise` gives it, with its marks of pauses; remembered in a folder by voice and text.

    voice: as espeak-ng names it, such as "en-us". Raises UserError where no such program is installed, or it fails.
    """
    place = cache / "phones" / f"{content_hash([1, voice, text])[:32]}.txt"
    try:
        return read_checksummed(place).decode()
    except (FileNotFoundError, Corrupt):
        pass
    program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if program is None:
        raise UserError(
            "phones need the program espeak-ng, which is not installed; install it (apt install espeak-ng), or use Text, which "
            "reads characters."
        )
    parts = [part.strip() for part in _CLAUSE.split(text)]
    said = [part if _CLAUSE.fullmatch(part) else _spoken(program, part, voice) for part in parts if part]
    phones = re.sub(r" (?=[,.;:!?)])|(?<=\() ", "", " ".join(filter(None, said)))
    with explain_write_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
    write_checksummed(place, phones)
    return phones


def _spoken(program: str, clause: str, voice: str) -> str:
    """Phones of a text without marks of pauses. The text goes in by a pipe: it is no option and no command."""
    if not any(sign.isalpha() for sign in clause):
        return ""
    command = [program, "-v", voice, "-q", "--ipa", "-b", "1", "--stdin"]
    try:
        done = subprocess.run(command, input=clause.encode(), capture_output=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{program} took over {_SECONDS:g} s for {clause[:60]!r}; try it by hand, or use Text."
        ) from None
    except OSError as error:
        raise UserError(f"{program} cannot be started ({error.strerror or error}); mend it, or use Text.") from None
    if done.returncode:
        why = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[:1]
        raise UserError(f"{program} -v {voice} failed ({''.join(why) or done.returncode}); change the stream's voice.")
    phones = " ".join(unicodedata.normalize("NFD", done.stdout.decode(errors="replace")).split())
    return _LANGUAGE_SWITCH.sub("", phones).replace("\u200d", "").replace("c\u0327", "ç").strip()
