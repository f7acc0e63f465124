"""Truncated WAV, RF64 and AIFF files, told by their chunk sizes; libsndfile reads them short and is silent.

Layout: Multimedia Programming Interface and Data Specifications 1.0 (RIFF), EBU Tech 3306 (RF64, BW64), AIFF 1.3.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

_STREAMED = 0x7FFFF000  # writers to a pipe cannot know the size and claim this or more
_WAVE_ORDER = {b"RIFF": "<", b"RF64": "<", b"BW64": "<", b"RIFX": ">"}
_SAMPLES = (b"data", b"SSND")


def missing_bytes(file: BinaryIO, file_size: int) -> int:
    """How many bytes of samples a header promises beyond the end of the file.

    Args:
        file: Open at its start.
        file_size: Bytes on disk.

    Returns:
        0 for a whole file, for one whose writer did not know its length, and for anything but WAV, RF64 and AIFF.
    """
    head = file.read(12)
    magic, kind = head[:4], head[8:]
    if magic in _WAVE_ORDER and kind == b"WAVE":
        order = _WAVE_ORDER[magic]
    elif magic == b"FORM" and kind in (b"AIFF", b"AIFC"):
        order = ">"
    else:
        return 0
    position, long_size = 12, None
    while position + 8 <= file_size:
        file.seek(position)
        name, size = struct.unpack(order + "4sI", file.read(8))
        if name == b"ds64":
            long_size = _data_size(file.read(16))
        if name in _SAMPLES:
            size = long_size if size == 0xFFFFFFFF and long_size is not None else size
            streamed = size >= _STREAMED and long_size is None
            return 0 if streamed else max(position + 8 + size - file_size, 0)
        position += 8 + size + size % 2  # chunks are padded to an even length
    return 0


def _data_size(ds64: bytes) -> int | None:
    """The 64-bit size of the data chunk, second field of `ds64`; None where it is cut off."""
    return struct.unpack("<Q", ds64[8:])[0] if len(ds64) == 16 else None
