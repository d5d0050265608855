"""Hashes by which vLLM finds the pages of a history again."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numpy as np

from genrec_serving.sized_lru import SizedLru

#: Bytes of histories that are remembered, so that only their new pages are hashed.
REMEMBERED_BYTES = 32 << 20


class _Hashed(NamedTuple):
    """The whole pages of a history, and their hashes."""

    pages: bytes
    hashes: list[bytes]


class PrefixHasher:
    """Hash of every whole page of a prompt, chained, so that a hash stands for all before it too.

    A returning user's history is that of the last time and some rows more. Comparing it costs a
    tenth of hashing it, so the last histories are kept, each under the hash of its first page.

    Args:
        page_rows: rows of a page.
        salt: the model's version; no page of another version is ever used again. How the model
            computes (`compute`) need not be in it: no page, in the pool or on the host, outlives
            the engine that wrote it, and an engine computes in one way.
        remembered_bytes: of histories.
    """

    def __init__(
        self, page_rows: int, salt: str, *, remembered_bytes: int = REMEMBERED_BYTES
    ) -> None:
        self._page_rows = page_rows
        self._seed = hashlib.sha256(salt.encode()).digest()
        self._remembered: SizedLru[bytes, _Hashed] = SizedLru(
            remembered_bytes, lambda hashed: len(hashed.pages), least=0
        )

    def __call__(self, request: Any) -> list[Any]:
        """Hashes of the pages that a vLLM request has no hash of yet."""
        known = len(request.block_hashes)
        rows = np.ascontiguousarray(request.prompt_embeds.numpy()).view(np.uint8)
        whole = len(rows) // self._page_rows
        page_bytes = self._page_rows * rows.shape[1]
        data = rows[: whole * self._page_rows].tobytes()
        if known or not whole:
            last = request.block_hashes[-1] if known else self._seed
            return _chain(data, page_bytes, known, last)
        (first,) = _chain(data[:page_bytes], page_bytes, 0, self._seed)
        hashes = self._known(first, data, page_bytes) or [first]
        hashes += _chain(data, page_bytes, len(hashes), hashes[-1])
        self._remembered.put(first, _Hashed(data, hashes))
        return list(hashes)

    def _known(self, first: bytes, data: bytes, page_bytes: int) -> list[bytes] | None:
        """Hashes of the pages that are those of the history before."""
        before = self._remembered.get(first)
        if before is None:
            return None
        common = min(len(before.pages), len(data))
        if before.pages[:common] != data[:common]:
            return None
        return before.hashes[: common // page_bytes]


def _chain(data: bytes, page_bytes: int, page: int, last: bytes) -> list[bytes]:
    """Hashes of the pages from `page` on, of which the one before has the hash `last`."""
    hashes = []
    view = memoryview(data)
    for begin in range(page * page_bytes, len(data), page_bytes):
        digest = hashlib.sha256(last)
        digest.update(view[begin : begin + page_bytes])
        last = digest.digest()
        hashes.append(last)
    return hashes
