"""Reads what wandb wrote in offline mode, from the bytes of its file.

The file is a log as LevelDB has it: after a header of 7 bytes, blocks of 32 KiB hold
pieces of records, each behind its checksum (4 bytes), length (2) and kind (1: whole,
2: first, 3: middle, 4: last). A record is a protocol buffer.
"""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

_BLOCK = 32 * 1024
_HEADER = 7
_PATIENCE_S = 30.0


def records(folder: Path, kind: str) -> list[Any]:
    """All records of one kind (a field of wandb's `Record`) of an offline run.

    wandb's service writes them; on a busy machine it may end after `finish` has.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        found = _read(folder)
        if "exit" in found or time.monotonic() > deadline:
            return found.get(kind, [])
        time.sleep(0.1)


def _read(folder: Path) -> dict[str, list[Any]]:
    """What has been written so far, by kind."""
    (file,) = folder.glob("*.wandb")
    data, at, parts = file.read_bytes(), _HEADER, b""
    found: dict[str, list[Any]] = {}
    while at + _HEADER <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:
            at += left
            continue
        _, length, piece = struct.unpack("<IHB", data[at : at + _HEADER])
        at += _HEADER
        if at + length > len(data):  # it is being written
            break
        parts += data[at : at + length]
        at += length
        if piece in (1, 4):
            record = wandb_internal_pb2.Record.FromString(parts)
            kind = record.WhichOneof("record_type")
            found.setdefault(kind, []).append(getattr(record, kind))
            parts = b""
    return found


def history(folder: Path) -> list[dict[str, Any]]:
    """The rows that were logged; nested keys are joined by dots."""
    return [
        {
            ".".join(item.nested_key) or item.key: json.loads(item.value_json)
            for item in row.item
        }
        for row in records(folder, "history")
    ]


def runs(run_dir: Path) -> list[Path]:
    """The offline runs in a run directory, the first one first."""
    found = (run_dir / "wandb").glob("offline-run-*")
    return sorted(found, key=lambda path: path.stat().st_ctime_ns)
