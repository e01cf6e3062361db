"""What code a run runs: a digest per step, a digest of the lock file, and the source itself as a bundle.

The digest of a step is SHA-256 over its module and every project module that it imports, transitively, read from the
syntax tree:
nothing is imported, so what is installed does not matter, and what is written inside functions counts. The engine
itself is a library here, and no part of it.
"""

from __future__ import annotations

import ast
import hashlib
import io
import sys
import sysconfig
import threading
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

LOCK_NAMES = ("uv.lock", "poetry.lock", "pdm.lock", "requirements.txt")
MAX_FILE_BYTES = 1_000_000
LIBRARY = (__package__, f"{__package__.rpartition('.')[0]}.log")
# Python 3.11 counts the depth of a syntax tree per interpreter, not per thread: two threads that parse at once can meet
# a SystemError (https://github.com/python/cpython/issues/106905).
_PARSING = threading.Lock()
_SKIPPED = {"__pycache__", "node_modules", ".git", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache"}


@dataclass(frozen=True, slots=True)
class Code:
    """The code of a run, as recorded.

    Attributes:
        functions: Digest by address of each function of the graph, and of the builder.
        lock: Digest of the lock file, empty without one.
        source: Digest over all files of all those functions: equal means that nothing else need be compared.
    """

    functions: Mapping[str, str]
    lock: str
    source: str

    def to_json(self) -> dict[str, Any]:
        return {"functions": dict(self.functions), "lock": self.lock, "source": self.source}


class Project:
    """The modules of the project, found on the import path outside of installed packages."""

    def __init__(self, roots: Iterable[Path] | None = None) -> None:
        """Takes the folders that hold project modules; by default those of `sys.path` that are not Python's own."""
        self.roots = tuple(_default_roots() if roots is None else roots)
        self._files: dict[str, Path | None] = {}
        self._imports: dict[str, tuple[str, ...]] = {}
        self._digests: dict[str, str] = {}

    def describe(self, addresses: Iterable[str]) -> Code:
        """The code behind these functions as it is on disk now."""
        modules = {address: address.partition(":")[0] for address in sorted(set(addresses))}
        closures = {module: self.closure(module) for module in sorted(set(modules.values()))}
        functions = {address: self._digest(closures[module]) for address, module in modules.items()}
        return Code(functions, self.lock_digest, self._digest(set().union(*closures.values())))

    def closure(self, module: str) -> set[str]:
        """The module and every project module that it imports, transitively, with the packages around them."""
        seen: set[str] = set()
        stack = [module]
        while stack:
            name = stack.pop()
            if name in seen or name in LIBRARY or name.startswith(tuple(f"{library}." for library in LIBRARY)):
                continue
            if self.file(name) is None:
                continue
            seen.add(name)
            stack.extend(self._imported(name))
            if "." in name:
                stack.append(name.rpartition(".")[0])
        return seen

    def file(self, module: str) -> Path | None:
        """The source file of a project module, or None."""
        if module not in self._files:
            parts = module.split(".")
            candidates = (
                file
                for root in self.roots
                for file in (root.joinpath(*parts).with_suffix(".py"), root.joinpath(*parts, "__init__.py"))
            )
            self._files[module] = next((file for file in candidates if file.is_file()), None)
        return self._files[module]

    def _source(self, module: str) -> Path:
        """The source file of a module that is known to have one."""
        file = self.file(module)
        if file is None:
            raise LookupError(f"module {module} has no source in the project")
        return file

    @cached_property
    def lock_file(self) -> Path | None:
        """The lock file in the roots or the folder that one is in."""
        return next((root / name for root in self.roots for name in LOCK_NAMES if (root / name).is_file()), None)

    @cached_property
    def lock_digest(self) -> str:
        return hashlib.sha256(self.lock_file.read_bytes()).hexdigest() if self.lock_file else ""

    def bundle(self, addresses: Iterable[str]) -> bytes:
        """A zip of the project: whole packages, with the data files in them, as far as these functions reach. Equal
        files, equal bytes.
        """
        files: dict[str, Path] = {}
        modules = set().union(*(self.closure(address.partition(":")[0]) for address in addresses))
        tops: dict[tuple[Path, str], Path] = {}
        for module in modules:
            # The package around a module may be a namespace package, which has no file of its own.
            file = self._source(module)
            root = next(root for root in self.roots if file.is_relative_to(root))
            tops[root, module.partition(".")[0]] = file
        for (root, package), file in tops.items():
            for found in _files_below(root / package) if (root / package).is_dir() else [file]:
                files[found.relative_to(root).as_posix()] = found
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, file in sorted(files.items()):
                # A fixed date: the bundle is named by its content.
                archive.writestr(zipfile.ZipInfo(name), file.read_bytes(), zipfile.ZIP_DEFLATED, 6)
        return buffer.getvalue()

    def _digest(self, modules: Iterable[str]) -> str:
        digest = hashlib.sha256()
        for module in sorted(modules):
            if module not in self._digests:
                self._digests[module] = hashlib.sha256(self._source(module).read_bytes()).hexdigest()
            digest.update(f"{module} {self._digests[module]}\n".encode())
        return digest.hexdigest()

    def _imported(self, module: str) -> tuple[str, ...]:
        if module not in self._imports:
            file = self._source(module)
            package = module if file.name == "__init__.py" else module.rpartition(".")[0]
            source = file.read_bytes()
            try:
                with _PARSING:
                    tree = ast.parse(source, str(file))
            except SyntaxError:
                tree = ast.Module([], [])
            self._imports[module] = tuple(_names_imported(tree, package))
        return self._imports[module]


def _names_imported(tree: ast.AST, package: str) -> Iterable[str]:
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _prefixes(alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])
            yield from _prefixes(base)
            # `from package import name` may mean a module of that name; if it is none, no file is found for it.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _statements(tree: ast.AST) -> Iterable[ast.AST]:
    """Every statement at any depth. Expressions, most of a tree, hold no imports."""
    stack = [tree]
    while stack:
        node = stack.pop()
        yield node
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            below = getattr(node, field, None)
            if isinstance(below, list):
                stack.extend(below)


def _prefixes(name: str) -> Iterable[str]:
    parts = name.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _files_below(folder: Path) -> Iterable[Path]:
    for path in folder.iterdir():
        if path.name in _SKIPPED or path.is_symlink():
            continue
        if path.is_dir():
            yield from _files_below(path)
        elif path.suffix != ".pyc" and path.stat().st_size <= MAX_FILE_BYTES:
            yield path


def _default_roots() -> list[Path]:
    installed = [Path(path).resolve() for path in sysconfig.get_paths().values()]
    roots = []
    for entry in sys.path:
        root = Path(entry or ".").resolve()
        if root.is_dir() and not any(root == path or root.is_relative_to(path) for path in installed):
            roots.append(root)
    return list(dict.fromkeys(roots))


def difference(recorded: Mapping[str, Any], present: Mapping[str, Any], addresses: Iterable[str]) -> list[str]:
    """What differs between the recorded and the present code of some functions: one line each, empty if nothing
    does.
    """
    if recorded["source"] == present["source"] and recorded["lock"] == present["lock"]:
        return []
    lines = []
    if recorded["lock"] != present["lock"]:
        lines.append(f"lock file: {recorded['lock'][:12] or 'none'} -> {present['lock'][:12] or 'none'}")
    for address in sorted(set(addresses)):
        before, after = recorded["functions"].get(address), present["functions"].get(address)
        if before is not None and before != after:
            lines.append(f"{address}: {before[:12]} -> {after[:12] if after else 'gone'}")
    return lines
