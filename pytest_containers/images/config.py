"""The image config: how an image is run, which layers it is made of and how it came to be.

Source: image-spec, config.md. Durations are nanoseconds in the JSON and seconds here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pytest_containers.errors import ImageError, ReferenceInvalid
from pytest_containers.images.digest import Digest
from pytest_containers.images.document import Fields, encode
from pytest_containers.spec import Healthcheck, ImageConfig, Port, Transport

__all__ = ["History", "read_config", "read_created", "read_history", "write_config"]

_NANOSECONDS = 1_000_000_000
_LAST_PORT = 65535
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp))?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """One step of how an image came to be; *created* is an RFC 3339 time or empty."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


def read_config(data: bytes) -> tuple[ImageConfig, tuple[str, ...]]:
    """Return what the config says about running the image, and the DiffIDs, oldest first.

    What is absent gets the defaults of `ImageConfig`. Exposed ports of transports other than TCP
    and UDP are left out. Raises ImageError for a malformed config.
    """
    fields = Fields.parse(data, "the image config")
    run = fields.fields("config")
    config = ImageConfig(
        entrypoint=_entrypoint(run.texts("Entrypoint")),
        command=run.texts("Cmd"),
        env=run.texts("Env"),
        user=run.text("User"),
        workdir=run.text("WorkingDir"),
        ports=_read_ports(run.names("ExposedPorts")),
        volumes=run.names("Volumes"),
        labels=run.table("Labels"),
        stop_signal=run.text("StopSignal"),
        shell=run.texts("Shell"),
        onbuild=run.texts("OnBuild"),
        healthcheck=_read_healthcheck(run),
        architecture=fields.text("architecture"),
        os=fields.text("os") or "linux",
        variant=fields.text("variant"),
        os_version=fields.text("os.version"),
        author=fields.text("author"),
    )
    return config, _read_diff_ids(fields.fields("rootfs"))


def read_created(data: bytes) -> str:
    """Return when the image was made, an RFC 3339 time, or an empty text."""
    return Fields.parse(data, "the image config").text("created")


def read_history(data: bytes) -> tuple[History, ...]:
    """Return the config's history, oldest step first; empty where it has none."""
    return tuple(
        History(
            created=step.text("created"),
            created_by=step.text("created_by"),
            author=step.text("author"),
            comment=step.text("comment"),
            empty_layer=step.flag("empty_layer"),
        )
        for step in Fields.parse(data, "the image config").each("history")
    )


def write_config(
    config: ImageConfig, diff_ids: Sequence[str], history: Sequence[History] = (), created: str = ""
) -> bytes:
    """Return the JSON of an image config; *created* is an RFC 3339 time, left out where empty.

    The same arguments give the same bytes, hence the same image id.
    """
    values: dict[str, object] = {"created": created} if created else {}
    if config.author:
        values["author"] = config.author
    values["architecture"] = config.architecture
    if config.variant:
        values["variant"] = config.variant
    values["os"] = config.os
    if config.os_version:
        values["os.version"] = config.os_version
    values["config"] = _run_values(config)
    values["rootfs"] = {"type": "layers", "diff_ids": [str(diff_id) for diff_id in diff_ids]}
    if history:
        values["history"] = [_history_values(step) for step in history]
    return encode(values)


def _read_diff_ids(rootfs: Fields) -> tuple[str, ...]:
    if rootfs.text("type", "layers") != "layers":
        raise ImageError(
            "the image config has a root file system of an unknown type", seen=rootfs.text("type")
        )
    try:
        return tuple(Digest.parse(text) for text in rootfs.texts("diff_ids"))
    except ReferenceInvalid as error:
        raise ImageError("the image config names a layer by no valid DiffID", seen=error.what) from error


def _entrypoint(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the entrypoint; one empty word means none: ``ENTRYPOINT [""]`` clears that of a base."""
    return () if words == ("",) else words


def _read_ports(names: Iterable[str]) -> tuple[Port, ...]:
    """Return each exposed port once; what is no port is left out, as docker does.

    The time depends on the number of ports and of names, not on how often ranges name a port.
    """
    ports: list[Port] = []
    known = {"tcp": bytearray(_LAST_PORT + 1), "udp": bytearray(_LAST_PORT + 1)}
    for name in names:
        match = _PORTS.fullmatch(name)
        if match is None:
            continue
        first, last = int(match[1]), int(match[2] or match[1])
        if not 0 < first <= last <= _LAST_PORT:
            continue
        transport: Transport = "udp" if (match[3] or "").lower() == "udp" else "tcp"
        seen, at = known[transport], first
        # The next port that is new: a range that is known already costs one search.
        while (at := seen.find(0, at, last + 1)) >= 0:
            seen[at] = 1
            ports.append(Port(at, transport))
    return tuple(ports)


def _read_healthcheck(run: Fields) -> Healthcheck | None:
    fields = run.fields("Healthcheck")
    test = fields.texts("Test")
    # An empty test inherits the base image's, which the builder has resolved by then.
    if not test:
        return None
    default = Healthcheck(test=test)
    return Healthcheck(
        test=test,
        interval_s=fields.whole("Interval") / _NANOSECONDS or default.interval_s,
        timeout_s=fields.whole("Timeout") / _NANOSECONDS or default.timeout_s,
        start_period_s=fields.whole("StartPeriod") / _NANOSECONDS,
        start_interval_s=fields.whole("StartInterval") / _NANOSECONDS,
        retries=fields.whole("Retries") or default.retries,
    )


def _run_values(config: ImageConfig) -> dict[str, object]:
    """Return the members of ``config`` that are not empty; a set is ``{"key": {}}`` as Go writes it."""
    values: dict[str, object] = {
        "User": config.user,
        "ExposedPorts": {str(port): {} for port in config.ports},
        "Env": list(config.env),
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.command),
        "Volumes": {path: {} for path in config.volumes},
        "WorkingDir": config.workdir,
        "Labels": dict(config.labels),
        "StopSignal": config.stop_signal,
        "Healthcheck": _healthcheck_values(config.healthcheck),
        "Shell": list(config.shell),
        "OnBuild": list(config.onbuild),
    }
    return {key: value for key, value in values.items() if value}


def _healthcheck_values(healthcheck: Healthcheck | None) -> dict[str, object]:
    if healthcheck is None:
        return {}
    values: dict[str, object] = {
        "Test": list(healthcheck.test),
        "Interval": round(healthcheck.interval_s * _NANOSECONDS),
        "Timeout": round(healthcheck.timeout_s * _NANOSECONDS),
        "StartPeriod": round(healthcheck.start_period_s * _NANOSECONDS),
        "Retries": healthcheck.retries,
    }
    if healthcheck.start_interval_s:
        values["StartInterval"] = round(healthcheck.start_interval_s * _NANOSECONDS)
    return values


def _history_values(step: History) -> Mapping[str, object]:
    values = {
        "created": step.created,
        "created_by": step.created_by,
        "author": step.author,
        "comment": step.comment,
        "empty_layer": step.empty_layer,
    }
    return {key: value for key, value in values.items() if value}
