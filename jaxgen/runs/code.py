"""The source of classes that a config file defines: it travels with the run, and is run only where the user says so.

A run's folder has it in `code/HASH/`: the config file and the modules beside it that it imports. Each checkpoint says which
HASH is its own, and the SHA-256 of each file. What is run are the bytes that were checked: Python is not led to the folder,
where a compiled file (`__pycache__`) could stand for another source.
"""

import ast
import dataclasses
import hashlib
import importlib.abc
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path, PurePosixPath
from types import ModuleType

from jaxgen.config import Config, module_name, run_module
from jaxgen.core.errors import UserError, printable, say
from jaxgen.core.files import explain_write_errors, read_regular, write_atomic
from jaxgen.core.names import join_inside
from jaxgen.core.serial import classes_from_outside, content_hash, to_json

_FOLDER = "code"
_MOST_FILES, _MOST_BYTES = 100, 2**20


@dataclasses.dataclass(frozen=True)
class CodeManifest:
    """What a checkpoint says of its run's code."""

    config_file: str
    """Name of the config file."""
    files: Mapping[str, str]
    """SHA-256 of each file, hexadecimal, by its path from the config file's folder, with slashes."""

    @property
    def folder(self) -> str:
        """Where the files are, from the run's folder."""
        return f"{_FOLDER}/{content_hash(to_json(self))[:16]}"

    def describe(self, workdir: Path) -> str:
        """The config file and its hash, for a message."""
        more = len(self.files) - 1
        others = f", and {more} more beside it" if more else ""
        digest = self.files.get(self.config_file, "not recorded")
        return f"'{workdir / self.folder / self.config_file}' (SHA-256 {digest}{others})"

    def run(self, workdir: Path) -> None:
        """Runs the config file of the run in a folder, so that its classes can be found by name; says so first.

        Raises UserError, and runs nothing, where a file is not the one that was recorded, or lies outside of the folder.
        """
        sources = {name: self._read(workdir, name) for name in self.files}
        if self.config_file not in sources or not self.config_file.endswith(".py"):
            raise UserError(
                f"what '{workdir}' says of its code names no config file; pass --config a file that you trust."
            )
        folder, name = workdir / self.folder, module_name(PurePosixPath(self.config_file).stem)
        files = {_module_of(file): file for file in sources if file != self.config_file} | {name: self.config_file}
        modules = _Modules(folder, files, sources)
        if _loader_of(name) == modules:  # as for another checkpoint
            return
        say(printable(f"jaxgen: running {self.describe(workdir)}"))
        modules.forget_others()
        sys.meta_path.insert(0, modules)
        try:
            run_module(modules.spec_of(name), folder / self.config_file)
        except BaseException:
            sys.modules.pop(name, None)
            raise
        finally:
            sys.meta_path.remove(modules)
            sys.meta_path.append(modules)  # for imports inside of functions; last, so that it hides nothing

    def _read(self, workdir: Path, name: str) -> bytes:
        folder = Path(os.path.realpath(workdir), self.folder)
        path = join_inside(folder, name)
        if os.path.realpath(path) != str(path):
            raise UserError(f"'{path}' is a link, or in a linked folder, and is not run; put the file itself there.")
        try:
            source = read_regular(path)
        except OSError as error:
            raise UserError(
                f"cannot read '{path}', the code of the run ({error.strerror or error}); restore it, or pass --config a file "
                "that you trust."
            ) from None
        if (found := hashlib.sha256(source).hexdigest()) != self.files[name]:
            raise UserError(
                f"'{path}' is not the file that the run was trained with (SHA-256 {found}, recorded is {self.files[name]}), "
                "and is not run; restore it, or pass --config a file that you trust."
            )
        return source


@dataclasses.dataclass(frozen=True)
class Code:
    """A config file and the modules beside it that it imports, as they were read."""

    manifest: CodeManifest
    sources: Mapping[str, bytes]

    def save(self, workdir: Path) -> None:
        """Writes the files into the run's folder."""
        for name, source in self.sources.items():
            path = workdir / self.manifest.folder / name
            with explain_write_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, source)


def collect_code(config: Config, path: str | Path | None) -> Code | None:
    """The source that a run of this config needs to be opened again; None where all its classes are jaxgen's own, or no file
    is known. path: the config file, which has been loaded.

    What is more than 100 files or 1 MiB is not taken, which is said.
    """
    needed = dataclasses.replace(
        config, train=dataclasses.replace(config.train, loggers=())
    )  # a checkpoint names no logger
    if path is None or not classes_from_outside(to_json(needed)):
        return None
    file_name, real = Path(path).name, Path(os.path.realpath(path))
    sources = dict[str, bytes]()
    for file in _imported_beside(real):
        name = file_name if file == real else file.relative_to(real.parent).as_posix()
        sources[name] = read_regular(file)
        if len(sources) > _MOST_FILES or sum(map(len, sources.values())) > _MOST_BYTES:
            say(
                f"jaxgen: '{path}' imports more than {_MOST_FILES} files or {_MOST_BYTES:,} bytes from its folder, so its code "
                "does not go with the run; --config will be needed to open it."
            )
            return None
    hashes = {name: hashlib.sha256(source).hexdigest() for name, source in sorted(sources.items())}
    return Code(CodeManifest(file_name, hashes), sources)


def _imported_beside(path: Path) -> Iterator[Path]:
    """The file, and those of its folder that it imports, anywhere in it, and so on; of a package all modules."""
    waiting, seen = [path], {path}
    while waiting:
        yield (file := waiting.pop())
        for name in _imports(file):
            for found in _files_beside(path.parent, name):
                if found not in seen:
                    seen.add(found)
                    waiting.append(found)


def _imports(path: Path) -> Iterator[str]:
    """First parts of the names that a file imports."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _files_beside(folder: Path, name: str) -> list[Path]:
    """The files of a module or package in a folder; none where Python finds another one of its name first."""
    module, package = folder / f"{name}.py", folder / name
    first = package / "__init__.py" if (package / "__init__.py").is_file() else module
    loaded = sys.modules.get(name)
    origin = getattr(loaded, "__file__", None) if loaded else _origin(name)
    if origin is None or os.path.realpath(origin) != os.path.realpath(first):
        return []
    return [module] if first == module else sorted(each for each in package.rglob("*.py") if each.is_file())


def _origin(name: str) -> str | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return spec.origin if spec else None


@dataclasses.dataclass(frozen=True, eq=True)
class _Modules(importlib.abc.MetaPathFinder, importlib.abc.ExecutionLoader):
    """Imports modules from sources in memory."""

    _folder: Path
    _files: Mapping[str, str]
    """Of each module, by name."""
    _sources: Mapping[str, bytes]
    """Of each file, by name."""

    def spec_of(self, module: str) -> ModuleSpec:
        """How one of the modules is imported."""
        spec = importlib.util.spec_from_loader(module, self, origin=self.get_filename(module))
        assert spec is not None
        spec.has_location = True  # so that it has a __file__
        return spec

    def forget_others(self) -> None:
        """Forgets modules of the same names that have been imported from elsewhere, as for another run."""
        tops = {name.partition(".")[0] for name in self._files}
        for name in [name for name in sys.modules if name.partition(".")[0] in tops]:
            del sys.modules[name]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return self.spec_of(fullname) if fullname in self._files else None

    def get_filename(self, fullname: str) -> str:
        return str(self._folder / self._files[fullname])

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(self._sources[self._files[fullname]])

    def is_package(self, fullname: str) -> bool:
        return self._files[fullname].endswith("/__init__.py")


def _loader_of(module: str) -> object:
    """What loaded a module; None where it is not loaded."""
    return getattr(sys.modules.get(module), "__loader__", None)


def _module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
