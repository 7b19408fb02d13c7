"""Dockerfiles whose meaning BuildKit has shown: a base, contexts, and how a result is written down.

What `observe` saw of them with a real BuildKit is in ``data/observed.json``; `test_corpus` holds ours
to it, without any other engine. None has a RUN, so no case needs a kernel feature or a package.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

__all__ = ["CASES", "OBSERVED", "Case", "base_tar", "described", "merged", "write_context"]

OBSERVED: Final = Path(__file__).with_name("data") / "observed.json"

# A context's file: "text", "-> target" is a link, "= name" a hard link, "/" a folder, a mode in front.
_APP: Final = {
    "app/main.py": "0755 print('hello')\n",
    "app/data/one": "1",
    "app/data/two": "0600 2",
    "app/link": "-> data/one",
    "app/empty/": "0711 /",
    "top": "top\n",
    "second": "second\n",
    "to-app": "-> app",
    "to-top": "-> top",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One build: the lines of a Dockerfile behind ``FROM base``, unless it has a FROM of its own."""

    name: str
    lines: tuple[str, ...]
    context: Mapping[str, str] = field(default_factory=lambda: dict(_APP))

    @property
    def dockerfile(self) -> str:
        """The whole file."""
        own = any(line.startswith("FROM") for line in self.lines)
        return "\n".join(self.lines if own else ("FROM base", *self.lines)) + "\n"


def base_tar() -> bytes:
    """Return the root file system of the image ``base``: no program, some folders and links."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, mode, owner, text in _BASE:
            entry = tarfile.TarInfo(name.rstrip("/"))
            entry.mode, (entry.uid, entry.gid), entry.mtime = mode, owner, 1_000_000_000
            content = b""
            if name.endswith("/"):
                entry.type = tarfile.DIRTYPE
            elif text.startswith("-> "):
                entry.type, entry.linkname = tarfile.SYMTYPE, text[3:]
            else:
                content = text.encode()
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


_ROOT: Final = (0, 0)
_BASE: Final = (
    ("etc/", 0o755, _ROOT, ""),
    ("etc/passwd", 0o644, _ROOT, "root:x:0:0::/:\napp:x:1000:1001::/srv:\n"),
    ("etc/group", 0o644, _ROOT, "root:x:0:\nstaff:x:50:\napp:x:1001:\n"),
    ("opt/", 0o700, _ROOT, ""),
    ("srv/", 0o755, _ROOT, ""),
    ("srv/absolute", 0o777, _ROOT, "-> /srv/folder"),
    ("srv/dangling", 0o777, _ROOT, "-> nowhere"),
    ("srv/file", 0o640, (5, 6), "base\n"),
    ("srv/folder/", 0o711, (5, 6), ""),
    ("srv/folder/old", 0o644, _ROOT, "old\n"),
    ("srv/folder/sub/", 0o700, (7, 8), ""),
    ("srv/to-file", 0o777, _ROOT, "-> file"),
    ("srv/to-folder", 0o777, _ROOT, "-> folder"),
    ("tmp/", 0o1777, _ROOT, ""),
)


def _case(name: str, *lines: str, **context: str) -> Case:
    return Case(name=name, lines=lines, context={**_APP, **context})


def _copies() -> Iterator[Case]:
    """COPY, by what is at its target."""
    yield _case("file-new-name", "COPY top /srv/name")
    yield _case("file-into-folder", "COPY top /srv/folder/")
    yield _case("file-onto-folder", "COPY top /srv/folder")
    yield _case("file-into-new-folder", "COPY top /new/deep/")
    yield _case("file-to-new-deep-name", "COPY top /new/deep/name")
    yield _case("file-over-file", "COPY top /srv/file")
    yield _case("file-over-link-to-file", "COPY top /srv/to-file")
    yield _case("file-over-link-to-folder", "COPY top /srv/to-folder")
    yield _case("file-through-link", "COPY top /srv/to-folder/name")
    yield _case("file-through-absolute-link", "COPY top /srv/absolute/")
    yield _case("file-over-dangling-link", "COPY top /srv/dangling")
    yield _case("file-through-dangling-link", "COPY top /srv/dangling/name")
    yield _case("file-below-file", "COPY top /srv/file/name")
    yield _case("folder-contents", "COPY app /srv/app")
    yield _case("folder-to-existing", "COPY app /srv/folder")
    yield _case("folder-to-root", "COPY app /")
    yield _case("folder-through-link", "COPY app /srv/to-folder")
    yield _case("folder-through-dangling-link", "COPY app /srv/dangling")
    yield _case("folder-onto-file", "COPY app /srv/file")
    yield _case("folder-with-slash", "COPY app/ /srv/app/")
    yield _case("folder-over-folder-attributes", "COPY tree /srv/folder", **{"tree/sub/x": "0604 x"})
    yield _case("folder-over-file-inside", "COPY tree /srv", **{"tree/file/x": "x"})
    yield _case("file-over-folder-inside", "COPY tree /srv", **{"tree/folder": "x"})
    yield _case("file-over-link-inside", "COPY tree /srv", **{"tree/to-file": "x"})
    yield _case("folder-over-link-inside", "COPY tree /srv", **{"tree/to-folder/x": "x"})
    yield _case("link-over-file-inside", "COPY tree /srv", **{"tree/file": "-> other"})
    yield _case("link-over-folder-inside", "COPY tree /srv", **{"tree/folder": "-> other"})


def _sources() -> Iterator[Case]:
    """COPY, by what its sources name."""
    yield _case("everything", "COPY . /all/")
    yield _case("everything-by-slash", "COPY / /all/")
    yield _case("two-files", "COPY top second /srv/")
    yield _case("two-files-no-slash", "COPY top second /srv")
    yield _case("file-and-folder", "COPY top app /srv/both/")
    yield _case("same-name-twice", "COPY top app/../top /srv/")
    yield _case("dot-dot-source", "COPY ../top /srv/")
    yield _case("absolute-source", "COPY /app/main.py /srv/")
    yield _case("dot-target", "WORKDIR /srv/folder", "COPY top .")
    yield _case("relative-target", "WORKDIR /srv", "COPY top folder/name")
    yield _case("dot-dot-target", "WORKDIR /srv/folder", "COPY top ../up")
    yield _case("target-above-root", "COPY top /../../up")
    yield _case("json-form", 'COPY ["top", "/srv/a name"]')
    yield _case("link-source", "COPY to-top /srv/")
    yield _case("link-source-new-name", "COPY to-top /srv/name")
    yield _case("folder-link-source", "COPY to-app /srv/")
    yield _case("wildcard", "COPY * /all/")
    yield _case("wildcard-files", "COPY s* /srv/")
    yield _case("wildcard-one", "COPY to?. /srv/")
    yield _case("wildcard-nothing", "COPY none* /srv/")
    yield _case("wildcard-nothing-new-folder", "COPY none* /new/")
    yield _case("wildcard-single-file-name", "COPY sec* /srv/name")
    yield _case("wildcard-in-folder", "COPY app/data/t* /srv/")
    yield _case("wildcard-folders", "COPY a*/d* /srv/")
    yield _case("wildcard-class", "COPY [a-t]op /srv/")
    yield _case("missing", "COPY missing /srv/")
    yield _case("missing-deep", "COPY app/missing /srv/")
    yield _case("dangling-source", "COPY d /srv/", d="-> nothing")
    yield _case("dangling-inside", "COPY in /srv/in/", **{"in/d": "-> nothing"})
    yield _case("outside-link-inside", "COPY in /srv/in/", **{"in/d": "-> ../../../etc/passwd"})
    yield _case("hard-links", "COPY in /srv/in/", **{"in/a": "x", "in/b": "= in/a"})
    yield _case("empty-file", "COPY e /srv/", e="")
    yield _case("unicode-name", "COPY ü /srv/", ü="ü")
    yield _case("long-name", f"COPY {'n' * 120} /srv/", **{"n" * 120: "long"})
    yield _case("set-user-id", "COPY s /srv/", s="4755 x")
    yield _case("sticky-folder", "COPY f /srv/f/", **{"f/t/": "1777 /"})


def _owners() -> Iterator[Case]:
    """``--chown``, ``--chmod`` and USER."""
    yield _case("chown-numbers", "COPY --chown=3:4 app /srv/app")
    yield _case("chown-user-alone", "COPY --chown=3 top /srv/")
    yield _case("chown-names", "COPY --chown=app:staff top /srv/")
    yield _case("chown-user-name-alone", "COPY --chown=app top /srv/")
    yield _case("chown-mixed", "COPY --chown=app:9 top /srv/")
    yield _case("chown-group-alone", "COPY --chown=:9 top /srv/")
    yield _case("chown-unknown", "COPY --chown=nobody-here top /srv/")
    yield _case("chown-new-folders", "COPY --chown=3:4 top /new/deep/")
    yield _case("chown-existing-folder", "COPY --chown=3:4 tree /srv", **{"tree/folder/x": "x"})
    yield _case("chmod", "COPY --chmod=640 top /srv/")
    yield _case("chmod-folder", "COPY --chmod=751 app /srv/app")
    yield _case("chmod-special", "COPY --chmod=4711 top /srv/")
    yield _case("chmod-link", "COPY --chmod=600 in /srv/in/", **{"in/l": "-> x", "in/x": "x"})
    yield _case("user-does-not-own", "USER app", "COPY top /srv/")
    yield _case("user-workdir", "USER app", "WORKDIR /srv/own/deep")


def _adds() -> Iterator[Case]:
    """ADD of local files and archives."""
    yield _case("add-file", "ADD top /srv/")
    yield _case("add-folder", "ADD app /srv/app")
    yield _case("add-archive", "ADD a.tar /srv/a/", **{"a.tar": "tar"})
    yield _case("add-archive-no-slash", "ADD a.tar /srv/a", **{"a.tar": "tar"})
    yield _case("add-archive-over", "ADD a.tar /srv", **{"a.tar": "tar"})
    yield _case("add-archive-gzip", "ADD a.bin /srv/a/", **{"a.bin": "tgz"})
    yield _case("add-archive-chown", "ADD --chown=3:4 a.tar /srv/a/", **{"a.tar": "tar"})
    yield _case("add-archive-and-file", "ADD a.tar top /srv/a/", **{"a.tar": "tar"})
    yield _case("add-archive-wildcard", "ADD *.tar /srv/a/", **{"a.tar": "tar"})
    yield _case("add-archive-in-folder", "ADD f /srv/f/", **{"f/a.tar": "tar"})
    yield _case("add-not-archive", "ADD a.tar /srv/", **{"a.tar": "no archive"})
    yield _case("add-gzip-file", "ADD a.gz /srv/", **{"a.gz": "gz"})
    yield _case("copy-archive", "COPY a.tar /srv/", **{"a.tar": "tar"})


def _others() -> Iterator[Case]:
    """WORKDIR, VOLUME, USER, ONBUILD and stages."""
    yield _case("workdir-new", "WORKDIR /new/deep")
    yield _case("workdir-relative", "WORKDIR /srv", "WORKDIR sub", "WORKDIR ../other")
    yield _case("workdir-existing", "WORKDIR /srv/folder/sub")
    yield _case("workdir-through-link", "WORKDIR /srv/to-folder/made")
    yield _case("workdir-variable", "ENV D=/srv/v", "WORKDIR $D/x")
    yield _case("workdir-root", "WORKDIR /")
    yield _case("volume", "VOLUME /srv/data /srv/folder")
    yield _case("volume-then-copy", "VOLUME /srv/data", "COPY top /srv/data/")
    yield _case("config", *_CONFIG)
    yield _case("onbuild", "ONBUILD COPY top /srv/", "ONBUILD USER app")
    yield _case("onbuild-stage", "FROM base AS one", "ONBUILD COPY top /srv/", "FROM one", "USER app")
    yield _case(
        "stage", "FROM base AS one", "COPY --chown=3:4 app /out/", "FROM base", "COPY --from=one /out /srv/o"
    )
    yield _case(
        "stage-file", "FROM base AS one", "COPY app /out/", "FROM base", "COPY --from=one /out/main.py /x"
    )
    yield _case("stage-owner", "FROM base AS one", "FROM base", "COPY --from=one /srv /copied/")
    yield _case("stage-chown", "FROM base AS one", "FROM base", "COPY --from=one --chown=3 /srv /copied/")
    yield _case(
        "stage-link", "FROM base AS one", "FROM base", "COPY --from=one /srv/to-file /srv/absolute /copied/"
    )
    yield _case("stage-wildcard", "FROM base AS one", "FROM base", "COPY --from=one /srv/f* /copied/")
    yield _case("stage-number", "FROM base", "COPY top /out/", "FROM base", "COPY --from=0 /out/ /srv/")
    yield _case("image", "COPY --from=base /srv/folder /copied")
    yield _case("scratch", "FROM scratch", "COPY app /app/")
    yield _case("scratch-root", "FROM scratch", "COPY app /")
    yield _case("scratch-workdir", "FROM scratch", "WORKDIR /w/x", "COPY top .")
    yield _case(
        "ignored", "COPY . /all/", **{".dockerignore": "app/data\n!app/data/two\n*.md\n", "a.md": "x"}
    )
    yield _case("ignored-named", "COPY top /srv/", **{".dockerignore": "top\n"})
    yield _case("ignored-folder-named", "COPY app /srv/app", **{".dockerignore": "app\n"})


_ONE: Final = "FROM base AS one"
_IGNORED: Final = "app/data\n!app/data/two\n*.md\n"
_CONFIG: Final = (
    "ENV A=1 B='two words'",
    "ENV C legacy value",
    'LABEL l=v m="w x"',
    "EXPOSE 80 8000-8002/udp",
    "USER app:staff",
    "WORKDIR /srv",
    "VOLUME /v",
    "STOPSIGNAL SIGUSR1",
    'SHELL ["/bin/bash", "-c"]',
    "HEALTHCHECK --interval=3s --retries=2 CMD true",
    'ENTRYPOINT ["/entry"]',
    "CMD run this",
)

CASES: Final = (*_copies(), *_sources(), *_owners(), *_adds(), *_others())


def write_context(folder: Path, case: Case) -> None:
    """Write the case's context and Dockerfile to the empty *folder*, all of one time."""
    (folder / "Dockerfile").write_text(case.dockerfile)
    for name, text in case.context.items():
        _write(folder / name.rstrip("/"), text, folder)
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (1_100_000_000, 1_100_000_000), follow_symlinks=False)


def _write(path: Path, text: str, root: Path) -> None:
    mode = 0o644
    if text[:4].isdecimal() and text[4:5] == " ":
        mode, text = int(text[:4], 8), text[5:]
    path.parent.mkdir(parents=True, exist_ok=True)
    if text == "/":
        path.mkdir(exist_ok=True)
    elif text.startswith("-> "):
        path.symlink_to(text[3:])
        return
    elif text.startswith("= "):
        path.hardlink_to(root / text[2:])
        return
    elif text in {"tar", "tgz", "gz"}:
        path.write_bytes(_archive(text))
    else:
        path.write_text(text)
    path.chmod(mode)


def _archive(kind: str) -> bytes:
    import gzip

    if kind == "gz":
        return gzip.compress(b"plain text, and no archive\n", mtime=0)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, mode, owner, text in _ARCHIVED:
            entry = tarfile.TarInfo(name.rstrip("/"))
            entry.mode, (entry.uid, entry.gid), entry.mtime = mode, owner, 1_050_000_000
            if name.endswith("/"):
                entry.type = tarfile.DIRTYPE
            elif text.startswith("-> "):
                entry.type, entry.linkname = tarfile.SYMTYPE, text[3:]
            elif text.startswith("= "):
                entry.type, entry.linkname = tarfile.LNKTYPE, text[2:]
            else:
                entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()) if entry.isreg() else None)
    return gzip.compress(out.getvalue(), mtime=0) if kind == "tgz" else out.getvalue()


_ARCHIVED: Final = (
    ("folder/", 0o750, (11, 12), ""),
    ("folder/inside", 0o604, (13, 14), "inside"),
    ("file", 0o600, (15, 16), "from the archive"),
    ("hard", 0o600, (15, 16), "= file"),
    ("soft", 0o777, (0, 0), "-> folder/inside"),
    ("deep/without/folders", 0o644, (0, 0), "x"),
)


def merged(layers: Iterable[bytes]) -> dict[str, str]:
    """Return what layers, plain tars and oldest first, come to: a line for each path.

    A file's times are left out. Of a hard link the line is that of its file, with the other names.
    """
    rows: dict[str, str] = {}
    for layer in layers:
        _lay(rows, layer)
    return dict(sorted(rows.items()))


def _lay(rows: dict[str, str], layer: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(layer), mode="r:") as tar:
        members = list(tar)
        for entry in members:
            folder, _, last = f"/{entry.name.strip('/.')}".rpartition("/")
            if last.startswith(".wh."):
                _remove(rows, f"{folder}/{last[4:]}")
        for entry in members:
            path = f"/{entry.name.removeprefix('./').strip('/')}"
            if "/.wh." in path:
                continue
            if not entry.isdir():
                _remove(rows, path)
            if entry.islnk():
                rows[path] = rows[f"/{entry.linkname.removeprefix('./').strip('/')}"] + " hard"
            elif path != "/":
                rows[path] = _row(tar, entry)


def _remove(rows: dict[str, str], path: str) -> None:
    for one in [one for one in rows if one == path or one.startswith(f"{path}/")]:
        del rows[one]


def _row(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> str:
    owned = f"{entry.uid}:{entry.gid}"
    if entry.issym():
        return f"link {owned} {entry.linkname}"
    xattrs = "".join(f" {key}" for key in sorted(entry.pax_headers) if key.startswith("SCHILY.xattr."))
    if entry.isdir():
        return f"folder {entry.mode & 0o7777:04o} {owned}{xattrs}"
    content = tar.extractfile(entry)
    data = content.read() if content else b""
    return f"file {entry.mode & 0o7777:04o} {owned} {hashlib.sha256(data).hexdigest()[:12]}{xattrs}"


_KEPT: Final = (
    *("Cmd", "Entrypoint", "Env", "ExposedPorts", "Healthcheck", "Labels", "OnBuild", "Shell"),
    *("StopSignal", "User", "Volumes", "WorkingDir"),
)


_DEFAULTS: Final = {"Interval": 30 * 10**9, "Timeout": 30 * 10**9, "StartPeriod": 0, "Retries": 3}


def described(layers: Iterable[bytes], config: Mapping[str, object]) -> dict[str, object]:
    """Return a result as it is kept: tree, and the members of the image's config that say something.

    What a HEALTHCHECK leaves to its default may stand in a config or not.
    """
    inner = config.get("config")
    members = dict(inner) if isinstance(inner, dict) else {}
    if health := members.get("Healthcheck"):
        members["Healthcheck"] = {key: value for key, value in health.items() if _DEFAULTS.get(key) != value}
    return {
        "tree": merged(layers),
        "config": {key: members[key] for key in _KEPT if members.get(key)},
    }
