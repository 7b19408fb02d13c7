"""JSON that others wrote: read by key, with a type each, and an error that names the place.

Manifests, configs, token answers and credential files come from outside; a value of the wrong
type must end as one clear error and never as a TypeError far away.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pytest_containers.errors import ImageError

__all__ = ["Fields", "encode", "encode_list"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """One JSON object; *place* says which, for messages. Absent and null are the same."""

    # Not in the repr: credential files and token answers are read with this, too.
    values: Mapping[str, object] = field(repr=False)
    place: str

    @classmethod
    def parse(cls, data: bytes | str, place: str) -> Fields:
        """Read a JSON object; raise ImageError where *data* is none."""
        try:
            text = data if isinstance(data, str) else data.decode("utf-8")
            value: object = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ImageError(f"{place} is not JSON", seen=str(error)[:200]) from error
        if not isinstance(value, dict):
            raise ImageError(f"{place} is not a JSON object", seen=type(value).__name__)
        return cls(values=value, place=place)

    @classmethod
    def parse_list(cls, data: bytes, place: str) -> tuple[Fields, ...]:
        """Read a JSON list of objects; raise ImageError where *data* is none."""
        try:
            value: object = json.loads(data.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise ImageError(f"{place} is not JSON", seen=str(error)[:200]) from error
        return cls(values={"it": value}, place=place).each("it")

    def has(self, key: str) -> bool:
        """Tell whether *key* is there and not null."""
        return self.values.get(key) is not None

    def text(self, key: str, default: str = "") -> str:
        """Return a string."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self._wrong(key, "a string", value)
        return _scalars(value)

    def whole(self, key: str, default: int = 0) -> int:
        """Return a whole number that is not negative."""
        value = self.values.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self._wrong(key, "a whole number", value)
        return value

    def flag(self, key: str) -> bool:
        """Return true or false; false where absent."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(key, "true or false", value)
        return bool(value)

    def fields(self, key: str) -> Fields:
        """Return an object; an empty one where absent."""
        value = self.values.get(key)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise self._wrong(key, "an object", value)
        return Fields(values=value, place=f"{self.place}, {key}")

    def each(self, key: str) -> tuple[Fields, ...]:
        """Return a list of objects, one by one."""
        found = []
        for at, value in enumerate(self._items(key)):
            if not isinstance(value, dict):
                raise self._wrong(f"{key}[{at}]", "an object", value)
            found.append(Fields(values=value, place=f"{self.place}, {key}[{at}]"))
        return tuple(found)

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of strings."""
        found = []
        for at, value in enumerate(self._items(key)):
            if not isinstance(value, str):
                raise self._wrong(f"{key}[{at}]", "a string", value)
            found.append(_scalars(value))
        return tuple(found)

    def table(self, key: str) -> dict[str, str]:
        """Return an object whose values are strings."""
        inner = self.fields(key)
        return {_scalars(name): inner.text(name) for name in inner.values}

    def names(self, key: str) -> tuple[str, ...]:
        """Return the keys of an object, in their order; Go writes a set as ``{"key": {}}``."""
        return tuple(_scalars(name) for name in self.fields(key).values)

    def _items(self, key: str) -> list[object]:
        value = self.values.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._wrong(key, "a list", value)
        return value

    def _wrong(self, key: str, wanted: str, value: object) -> ImageError:
        return ImageError(f"{self.place}: {key} is not {wanted}", seen=json.dumps(value)[:80])


def encode(value: Mapping[str, object]) -> bytes:
    """Return *value* as compact JSON in its own key order: the same value, the same bytes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def encode_list(values: Iterable[Mapping[str, object]]) -> bytes:
    """Return objects as a compact JSON list."""
    return json.dumps(list(values), ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def _scalars(text: str) -> str:
    r"""Replace lone surrogates: JSON may escape them (``"\ud800"``), UTF-8 has none (RFC 8259, 8.2)."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
