"""``images``, ``inspect``, ``services``, ``tag``, ``rm`` and ``prune``: what there is."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from pytest_containers.commands.opened import opened
from pytest_containers.commands.output import (
    age,
    config_fields,
    details_fields,
    duration_s,
    familiar,
    line,
    record_fields,
    size,
    size_bytes,
    table,
    write_json,
)
from pytest_containers.inventory import ImageDetails

__all__ = ["images", "inspect", "prune", "remove", "services", "tag"]

_ID_LENGTH = 12


def images(arguments: argparse.Namespace) -> int:
    """List the images of the store."""
    with opened(arguments) as session:
        found = [
            session.images.inspect(record.reference, platform=record.config.platform or None)
            for record in session.images.list()
        ]
    if arguments.json:
        write_json([{**record_fields(each.record), "created": each.created} for each in found])
        return 0
    rows = [
        (
            familiar(each.record.reference),
            each.record.config.platform,
            _short(each.record.id),
            age(each.created),
            size(each.record.size_bytes),
            each.record.built_from.folder if each.record.built_from else "",
            f"stale: {each.record.stale}" if each.record.stale else "",
        )
        for each in found
    ]
    table([("IMAGE", "PLATFORM", "ID", "CREATED", "SIZE", "BUILT FROM", "NOTE"), *rows])
    return 0


def inspect(arguments: argparse.Namespace) -> int:
    """Show all that is known of images."""
    with opened(arguments) as session:
        found = [session.images.inspect(name, platform=arguments.platform) for name in arguments.images]
    if arguments.json:
        write_json([details_fields(each) for each in found])
        return 0
    for each in found:
        for text in _told(each):
            line(text)
    return 0


def services(arguments: argparse.Namespace) -> int:
    """List what bare names mean."""
    with opened(arguments) as session:
        found = [(name, session.catalog.find(name)[1]) for name in session.catalog.names]
    if arguments.json:
        write_json([{"name": name, "image": image} for name, image in found])
    else:
        table([("NAME", "IMAGE"), *found])
    return 0


def tag(arguments: argparse.Namespace) -> int:
    """Give an image a second name."""
    with opened(arguments) as session:
        session.images.tag(arguments.source, arguments.target)
    return 0


def remove(arguments: argparse.Namespace) -> int:
    """Forget names."""
    with opened(arguments) as session:
        for name in arguments.images:
            session.images.remove(name)
    return 0


def prune(arguments: argparse.Namespace) -> int:
    """Remove what nobody needs, and images by age and size."""
    older_than_s = None if arguments.older_than is None else duration_s(arguments.older_than)
    max_bytes = None if arguments.max_size is None else size_bytes(arguments.max_size)
    with opened(arguments) as session:
        runs = () if arguments.dry_run else tuple(session.engine.reclaim())
        found = session.images.prune(
            older_than_s=older_than_s,
            max_bytes=max_bytes,
            keep_lock=arguments.keep_lock,
            dry_run=arguments.dry_run,
        )
    if arguments.json:
        write_json(
            {
                "dry_run": arguments.dry_run,
                "runs": list(runs),
                "images": list(found.names),
                "blobs": list(found.blobs),
                "layers": list(found.layers),
                "caches": list(found.caches),
                "size_bytes": found.size_bytes,
            }
        )
        return 0
    for name in (*runs, *map(familiar, found.names)):
        line(name)
    verb = "would be removed" if arguments.dry_run else "removed"
    caches = f", {len(found.caches)} cache mounts" if found.caches else ""
    line(f"{verb}: {len(found.blobs)} blobs, {len(found.layers)} layers{caches}, {size(found.size_bytes)}")
    return 0


def _short(digest: str) -> str:
    return digest.rpartition(":")[2][:_ID_LENGTH]


def _told(details: ImageDetails) -> Iterator[str]:
    record = details.record
    yield familiar(record.reference)
    yield f"  digest    {record.digest}"
    yield f"  id        {record.id}"
    yield f"  platform  {record.config.platform}"
    yield f"  created   {details.created} {age(details.created)}".rstrip()
    yield f"  size      {size(record.size_bytes)}"
    yield "  config"
    for name, value in config_fields(record.config).items():
        yield f"    {name}: {_flat(value)}"
    yield "  layers"
    for layer in details.layers:
        yield f"    {layer.digest}  {size(layer.size_bytes)}"
    yield "  history"
    for step in details.history:
        yield f"    {step.created_by or step.comment}" + ("  (no layer)" if step.empty_layer else "")


def _flat(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}={text}" for key, text in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
