"""``ADD https://host/x.git#ref:subdir``: by the machine's own git, which is made to trust nothing.

No hook, template, filter, credential helper or prompt of the user's or the system's is used
(git(1), GIT_CONFIG_NOSYSTEM; git-config(1), protocol.allow); only http, https, ssh and git are
spoken. What was fetched is kept in a bare repository for each remote, so the next build asks only
which commit a name means.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from pytest_containers._files import Waiting, locked, remove_tree, try_lock
from pytest_containers.errors import RegistryError
from pytest_containers.images.build.disk import DiskTree
from pytest_containers.images.build.nodes import Item
from pytest_containers.images.build.picking import Picker
from pytest_containers.images.build.remote import GitSource
from pytest_containers.images.origin import printable

__all__ = ["Repositories"]

_COMMIT: Final = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_PREFIX: Final = re.compile(r"[0-9a-f]{7,64}")
_PASSED: Final = ("PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "LANG")
_PROXIES: Final = (
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
)
_SAFE: Final = (
    *("-c", "core.hooksPath=/dev/null", "-c", "init.templateDir=", "-c", "credential.helper="),
    *("-c", "core.fsmonitor=false", "-c", "core.attributesFile=/dev/null", "-c", "gc.auto=0"),
    *("-c", "init.defaultBranch=main", "-c", "advice.detachedHead=false"),
    *("-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60"),
)
# The user's own settings and keys are no business of a Dockerfile: OpenSSH reads both from the home of
# passwd(5), whatever HOME says. Keys are those of the agent that was passed alone. A host that nobody
# knows yet is trusted at first sight, as BuildKit does by ssh-keyscan, and by its key from then on.
_SSH: Final = (
    *("ssh", "-F", "/dev/null", "-o", "BatchMode=yes", "-o", "IdentityFile=/dev/null"),
    *("-o", "StrictHostKeyChecking=accept-new", "-o", "ClearAllForwardings=yes"),
)
_LOOK_S: Final = 0.2
_KEPT_CHARACTERS: Final = 2000
_KEPT_S: Final = 30 * 24 * 3600.0


class Repositories:
    """Repositories kept in *folder*, one for each remote.

    *agent* is the socket of an SSH agent, empty for none; *check* raises where the build has ended,
    which *cancel* tells as well.
    """

    def __init__(
        self,
        folder: Path,
        *,
        agent: str,
        offline: bool,
        environ: Mapping[str, str],
        check: Callable[[], None],
        cancel: threading.Event | None = None,
    ) -> None:
        self._folder = folder
        self._offline = offline
        self._check = check
        self._cancel = cancel
        self._env = {name: environ[name] for name in (*_PASSED, *_PROXIES) if name in environ}
        self._env |= {
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "false",
            "SSH_ASKPASS": "false",
            "GIT_SSH_COMMAND": _ssh(folder / "known_hosts", agent),
            "GIT_ALLOW_PROTOCOL": "http:https:ssh:git",
            "GIT_LFS_SKIP_SMUDGE": "1",
        }
        if agent:
            self._env["SSH_AUTH_SOCK"] = agent

    def resolve(self, source: GitSource) -> str:
        """Return the commit that *source* means, which is here afterwards. Raises RegistryError."""
        for text in (source.remote, source.ref):
            if text.startswith("-"):
                raise RegistryError(f"git cannot fetch {text!r}", seen="it looks like an option")
        with self._held(source) as bare:
            commit = self._commit(source, bare)
        if not commit.startswith(source.checksum):
            raise RegistryError(
                f"{printable(source.remote)} has another commit than --checksum says",
                seen=f"{commit} in place of {source.checksum}",
                mend="look at what has changed there, then write the new commit",
            )
        return commit

    def items(self, source: GitSource, commit: str, scope: ExitStack, exclude: Sequence[str]) -> list[Item]:
        """Return the files of *commit*, checked out until *scope* ends."""
        folder = Path(scope.enter_context(tempfile.TemporaryDirectory(prefix="git-")))
        with self._held(source) as bare:
            self._check_out(source, commit, bare, folder)
        tree = DiskTree(folder)
        scope.callback(tree.close)
        picker = Picker(tree=tree, place=printable(source.remote))
        return picker.pick(source.subdir or ".", exclude=exclude, parents=False)

    @contextlib.contextmanager
    def _held(self, source: GitSource) -> Iterator[Path]:
        name = hashlib.sha256(source.remote.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        bare = self._folder / name
        with locked(bare.with_suffix(".lock"), waiting=Waiting(cancel=self._cancel)):
            os.utime(bare.with_suffix(".lock"))
            self._sweep()
            if not (bare / "HEAD").exists():
                remove_tree(bare)
                self._git(source, "init", "--quiet", "--bare", str(bare))
            yield bare

    def _sweep(self) -> None:
        """Remove repositories that nobody asked for in a month."""
        for lock in self._folder.glob("*.lock"):
            if lock.stat().st_mtime < time.time() - _KEPT_S and (held := try_lock(lock)) is not None:
                remove_tree(lock.with_suffix(""))
                lock.unlink(missing_ok=True)
                os.close(held)

    def _commit(self, source: GitSource, bare: Path) -> str:
        known = source.ref if _COMMIT.fullmatch(source.ref) else source.checksum
        if _COMMIT.fullmatch(known) and self._has(source, bare, known):
            return known
        if self._offline:
            raise RegistryError(
                f"{printable(source.remote)} is not asked, as the run is offline",
                mend="build once while the network may be used, with the whole name of a commit",
            )
        if _COMMIT.fullmatch(source.ref):
            self._fetch_commit(source, bare, source.ref)
            return source.ref
        name, commit = self._advertised(source)
        if not commit and _PREFIX.fullmatch(source.ref):
            self._fetch_all(source, bare)
            return self._git(source, "rev-parse", "--verify", f"{source.ref}^{{commit}}", at=bare).strip()
        if not commit:
            raise RegistryError(
                f"{printable(source.remote)} has no {source.ref or 'HEAD'}",
                mend="name a branch, a tag or a whole commit",
            )
        if not self._has(source, bare, commit):
            self._git(source, "fetch", "--quiet", "--depth=1", "--no-tags", source.remote, name, at=bare)
        return commit

    def _advertised(self, source: GitSource) -> tuple[str, str]:
        """Return the full name and the commit of what the remote calls *ref*; tags go before branches."""
        ref = source.ref or "HEAD"
        listed = self._git(source, "ls-remote", "--quiet", source.remote, ref, f"{ref}^{{}}")
        rows = dict(line.split("\t", 1)[::-1] for line in listed.splitlines() if "\t" in line)
        for name in (ref, f"refs/tags/{ref}", f"refs/heads/{ref}", f"refs/{ref}"):
            if name in rows:
                return name, rows.get(f"{name}^{{}}", rows[name])
        return "", ""

    def _has(self, source: GitSource, bare: Path, commit: str) -> bool:
        try:
            self._git(source, "cat-file", "-e", f"{commit}^{{tree}}", at=bare)
        except RegistryError:
            return False
        return True

    def _fetch_commit(self, source: GitSource, bare: Path, commit: str) -> None:
        try:
            self._git(source, "fetch", "--quiet", "--depth=1", "--no-tags", source.remote, commit, at=bare)
        except RegistryError:
            # A server may give only what it advertises (uploadpack.allowReachableSHA1InWant).
            self._fetch_all(source, bare)
        if not self._has(source, bare, commit):
            raise RegistryError(f"{printable(source.remote)} has no commit {commit}")

    def _fetch_all(self, source: GitSource, bare: Path) -> None:
        specs = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
        deepen = ("--unshallow",) if (bare / "shallow").exists() else ()
        self._git(source, "fetch", "--quiet", *deepen, source.remote, *specs, at=bare)

    def _check_out(self, source: GitSource, commit: str, bare: Path, folder: Path) -> None:
        self._git(source, "init", "--quiet", str(folder))
        self._git(source, "remote", "add", "origin", source.remote, at=folder)
        self._git(source, "update-ref", "refs/heads/fetched", commit, at=bare)
        fetch = ("fetch", "--quiet", "--depth=1", "--no-tags", str(bare), "refs/heads/fetched")
        self._git(source, *fetch, at=folder, local=True)
        self._git(source, "checkout", "--quiet", "--force", commit, at=folder)
        if (folder / ".gitmodules").exists() and source.submodules is not False:
            update = ("submodule", "--quiet", "update", "--init", "--recursive", "--depth=1")
            self._git(source, *update, at=folder)
        if not source.keep_git_dir:
            for inner in folder.rglob(".git"):
                shutil.rmtree(inner) if inner.is_dir() and not inner.is_symlink() else inner.unlink()
        moment = int(self._git(source, "show", "-s", "--format=%ct", commit, at=bare))
        for path in (folder, *folder.rglob("*")):
            os.utime(path, (moment, moment), follow_symlinks=False)

    def _git(self, source: GitSource, *arguments: str, at: Path | None = None, local: bool = False) -> str:
        """Run git; raise RegistryError with its last words where it fails."""
        env = self._env | {"HOME": str(self._folder)}
        if local:
            env |= {"GIT_ALLOW_PROTOCOL": "file"}
        where = ("-C", str(at)) if at is not None else ()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = subprocess.Popen(
                ["git", *_SAFE, *where, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=env,
                cwd="/",
                umask=0o022,
                start_new_session=True,
            )
            try:
                self._wait(process)
            finally:
                process.kill()
                process.wait()
            out.seek(0)
            err.seek(0)
            if process.returncode:
                raise RegistryError(
                    f"git {arguments[0]} of {printable(source.remote)} failed",
                    seen=err.read()
                    .decode("utf-8", "replace")
                    .replace(source.remote, printable(source.remote))[-_KEPT_CHARACTERS:]
                    .strip(),
                    mend="check the address and the name behind #; a private repository needs an SSH agent",
                )
            return out.read().decode("utf-8", "surrogateescape")

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        while True:
            self._check()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK_S)
                return


def _ssh(known_hosts: Path, agent: str) -> str:
    """Return the command line of ssh for git, which hands it to a shell (git(1), GIT_SSH_COMMAND)."""
    # Quoted once for ssh, which splits the list of files at blanks (ssh_config(5)).
    files = f'UserKnownHostsFile="{known_hosts}" ~/.ssh/known_hosts'
    return shlex.join([*_SSH, "-o", f"IdentityAgent={agent or 'none'}", "-o", files])
