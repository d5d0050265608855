"""Hashes of a history's pages, with and without what is remembered."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from genrec_serving.vllm_plugin.prefix_hashes import PrefixHasher

PAGE = 4


def ask(hasher: PrefixHasher, prompt: Tensor, known: list[bytes] | None = None) -> list[bytes]:
    return hasher(SimpleNamespace(prompt_embeds=prompt, block_hashes=known or []))


def fresh(prompt: Tensor, salt: str = "1") -> list[bytes]:
    return ask(PrefixHasher(PAGE, salt), prompt)


@pytest.fixture
def history() -> Tensor:
    return torch.randn(30, 4, generator=torch.Generator().manual_seed(0))


def test_whole_pages_have_hashes_that_stand_for_all_before(history: Tensor) -> None:
    hashes = fresh(history)
    assert len(set(hashes)) == len(hashes) == 30 // PAGE
    edited = history.clone()
    edited[9, 2] += 1
    assert fresh(edited)[:2] == hashes[:2]
    assert not set(fresh(edited)[2:]) & set(hashes)
    assert not set(fresh(history, salt="2")) & set(hashes)
    assert fresh(history[:3]) == []


def test_a_history_that_grew_or_shrank_or_was_edited_is_hashed_as_if_new(history: Tensor) -> None:
    hasher = PrefixHasher(PAGE, "1")
    edited = history.clone()
    edited[17, 0] += 1
    for prompt in (history[:9], history[:10], history, history[:9], edited, history, history[4:]):
        assert ask(hasher, prompt) == fresh(prompt)


def test_what_a_caller_does_with_its_hashes_changes_nothing(history: Tensor) -> None:
    hasher = PrefixHasher(PAGE, "1")
    ask(hasher, history).clear()
    assert ask(hasher, history) == fresh(history)


def test_only_new_pages_are_hashed(history: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    hasher = PrefixHasher(PAGE, "1")
    ask(hasher, history[:20])
    hashed: list[bytes] = []
    chain = "genrec_serving.vllm_plugin.prefix_hashes.hashlib.sha256"
    original = __import__("hashlib").sha256

    def counting(data: bytes) -> object:
        hashed.append(data)
        return original(data)

    monkeypatch.setattr(chain, counting)
    ask(hasher, history)
    assert len(hashed) == 1 + 7 - 5  # the first page, and those after the 20 rows


def test_pages_that_are_known_to_vllm_are_not_hashed_again(history: Tensor) -> None:
    hashes = fresh(history)
    assert ask(PrefixHasher(PAGE, "1"), history, known=hashes[:3]) == hashes[3:]


def test_memory_is_bounded_and_the_oldest_go(history: Tensor) -> None:
    page_bytes = PAGE * 4 * 4
    hasher = PrefixHasher(PAGE, "1", remembered_bytes=5 * page_bytes)
    others = [torch.randn(8, 4, generator=torch.Generator().manual_seed(i)) for i in range(1, 5)]
    for prompt in (*others, history):  # the last is too large to be kept
        assert ask(hasher, prompt) == fresh(prompt)
        assert sum(len(kept.pages) for kept in hasher._remembered.values()) <= 5 * page_bytes
    assert len(hasher._remembered) == 0
    for prompt in others[:3]:
        ask(hasher, prompt)
    assert [kept.hashes for kept in hasher._remembered.values()] == [fresh(x) for x in others[1:3]]
