"""Fields in file names: `{digit}_{speaker}_{index}`."""

import dataclasses
import functools
import posixpath
import re
from collections.abc import Sequence

from jaxgen.audio import AUDIO_SUFFIXES
from jaxgen.core.errors import UserError
from jaxgen.core.names import normalize
from jaxgen.data.clips import canonical_field


@dataclasses.dataclass(frozen=True)
class Pattern:
    """`{name}` matches at least one character and no slash; all else stands for itself.

    The first field is as short as it can be, then the second, and so on, as in a regular expression with `[^/]+?` for
    each field. A field that ends at the first place where the next literal stands leaves most to those behind it, so
    that nothing has to be tried twice: names are matched in linear time.
    """

    names: Sequence[str]
    literals: Sequence[str]
    """Before, between and after the fields."""
    has_path: bool
    """It describes the path below the root, not the file's name alone."""

    def fields(self, name: str) -> dict[str, str] | None:
        """The fields of a file name (its suffix does not count), or None where it does not match."""
        subject = normalize(posixpath.splitext(name)[0])
        if not self.has_path:
            subject = subject.rsplit("/", 1)[-1]
        if not self.names:
            return {} if subject == self.literals[0] else None
        if not subject.startswith(self.literals[0]) or not subject.endswith(self.literals[-1]):
            return None
        values, start = [], len(self.literals[0])
        for literal in self.literals[1:-1]:
            end = subject.find(literal, start + 1)
            if end < 0:
                return None
            values.append(subject[start:end])
            start = end + len(literal)
        values.append(subject[start : len(subject) - len(self.literals[-1])])
        if any(not value or "/" in value for value in values):
            return None
        return dict(zip(self.names, values, strict=True))


@functools.lru_cache
def parse(pattern: str) -> Pattern:
    """A pattern as it is written in an option. Raises UserError for a name used twice, or that is none."""
    pieces = re.split(r"\{(\w+)\}", normalize(pattern))
    names = pieces[1::2]
    wrong = [f"'{name}' stands in it twice" for name in names if names.count(name) > 1]
    wrong += [f"'{name}' is no name" for name in names if not name.isidentifier()]
    wrong += [f"write {{{canonical_field(name)}}} for {{{name}}}" for name in names if canonical_field(name) != name]
    if not pattern:
        wrong = ["it is empty"]
    if suffix := next((suffix for suffix in AUDIO_SUFFIXES if pattern.lower().endswith(suffix)), ""):
        wrong = [f"leave out {suffix}: the suffix does not count"]
    if wrong:
        raise UserError(
            f"data.pattern is '{pattern}', which cannot be used ({wrong[0]}); write {{name}} for each field."
        )
    return Pattern(names, pieces[::2], "/" in pattern)
