"""What commands print: tables, sizes, ages, and JSON of the nouns."""

from __future__ import annotations

import datetime
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Final

from pytest_containers.errors import SpecInvalid
from pytest_containers.inventory import ImageDetails
from pytest_containers.spec import ImageConfig, ImageRecord

__all__ = [
    "age",
    "config_fields",
    "details_fields",
    "duration_s",
    "familiar",
    "line",
    "record_fields",
    "size",
    "size_bytes",
    "table",
    "write_json",
    "write_records",
]

_UNITS: Final = ("B", "kB", "MB", "GB", "TB")
_SECONDS: Final[Mapping[str, int]] = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_AGES: Final = (("year", 31536000), ("month", 2592000), ("day", 86400), ("hour", 3600), ("minute", 60))
_AMOUNT: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) *([A-Za-z]*)")


def line(text: str) -> None:
    """Print one line."""
    sys.stdout.write(text + "\n")


def write_json(value: object) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_records(records: Sequence[ImageRecord], *, as_json: bool) -> None:
    """Print images, a line with name and digest each, or all as one JSON array."""
    if as_json:
        write_json([record_fields(record) for record in records])
        return
    for record in records:
        line(f"{record.reference}@{record.digest}")


def table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        line("  ".join(cells).rstrip())


def size(count: float) -> str:
    """Return bytes as people read them, by powers of 1000 as docker counts."""
    for unit in _UNITS:
        if count < 1000 or unit == _UNITS[-1]:
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def age(created: str, now: datetime.datetime | None = None) -> str:
    """Return how long ago an RFC 3339 time was; empty where nobody knows."""
    try:
        made = datetime.datetime.fromisoformat(created.strip())
    except ValueError:
        return ""
    # Reproducible images are of 1970 or of 1980 (SOURCE_DATE_EPOCH, zip's first year).
    if made.year <= 1980:
        return ""
    made = made if made.tzinfo else made.replace(tzinfo=datetime.UTC)
    past_s = ((now or datetime.datetime.now(datetime.UTC)) - made).total_seconds()
    for unit, length in _AGES:
        if (count := int(past_s // length)) >= 1:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def duration_s(text: str) -> float:
    """Read ``30d`` or ``12h``; raise SpecInvalid."""
    match = _AMOUNT.fullmatch(text.strip())
    if match is None or match[2].lower() not in _SECONDS:
        raise SpecInvalid(f"{text!r} is not an age", mend="write a number and s, m, h, d or w: 30d")
    return float(match[1]) * _SECONDS[match[2].lower()]


def size_bytes(text: str) -> int:
    """Read ``10GB`` (powers of 1000) or ``10GiB`` (of 1024); raise SpecInvalid."""
    match = _AMOUNT.fullmatch(text.strip())
    unit = match[2].upper().removesuffix("B") if match else ""
    base = 1024 if unit.endswith("I") else 1000
    letters = ("", "K", "M", "G", "T")
    if match is None or unit.removesuffix("I") not in letters:
        raise SpecInvalid(f"{text!r} is not a size", mend="write a number and kB, MB, GB or GiB: 10GB")
    return int(float(match[1]) * base ** letters.index(unit.removesuffix("I")))


def familiar(reference: str) -> str:
    """Return a reference without what every docker user leaves out."""
    return reference.removeprefix("docker.io/").removeprefix("library/")


def record_fields(record: ImageRecord) -> dict[str, object]:
    """Return an image's record for JSON."""
    return {
        "reference": record.reference,
        "digest": record.digest,
        "id": record.id,
        "size_bytes": record.size_bytes,
        "platform": record.config.platform,
        "portable": record.portable,
        "built_from": asdict(record.built_from) if record.built_from else None,
        "stale": record.stale or None,
    }


def details_fields(details: ImageDetails) -> dict[str, object]:
    """Return all that is known of an image, for JSON."""
    return {
        **record_fields(details.record),
        "created": details.created,
        "config": config_fields(details.record.config),
        "layers": [
            {
                "digest": layer.digest,
                "diff_id": layer.diff_id,
                "media_type": layer.media_type,
                "size_bytes": layer.size_bytes,
            }
            for layer in details.layers
        ],
        "history": [
            {
                "created": step.created,
                "created_by": step.created_by,
                "comment": step.comment,
                "empty_layer": step.empty_layer,
            }
            for step in details.history
        ],
    }


def config_fields(config: ImageConfig) -> dict[str, object]:
    """Return what an image says about running it; what it leaves open is left out."""
    health = config.healthcheck
    values: dict[str, object] = {
        "entrypoint": list(config.entrypoint),
        "command": list(config.command),
        "env": list(config.env),
        "user": config.user,
        "workdir": config.workdir,
        "ports": [str(port) for port in config.ports],
        "volumes": list(config.volumes),
        "labels": dict(config.labels),
        "stop_signal": config.stop_signal,
        "shell": list(config.shell),
        "onbuild": list(config.onbuild),
        "healthcheck": list(health.test) if health else [],
    }
    return {key: value for key, value in values.items() if value}
