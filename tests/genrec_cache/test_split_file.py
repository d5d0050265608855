"""The split that the next engine shall have."""

from __future__ import annotations

from pathlib import Path

import pytest

from genrec_cache.memory_split import Split
from genrec_cache.split_file import load_split, save_split


def test_it_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "split.json"
    for split in (Split(kv=70, rows=30), Split(kv=60, rows=40)):
        save_split(file, split)
        assert load_split(file, budget=100) == split
    assert [path.name for path in file.parent.iterdir()] == ["split.json"]


def test_there_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_split(tmp_path / "none", budget=100) is None
    assert not caplog.text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot be read"),
        ('{"format": "genrec-memory-split-1", "kv": 1}', "cannot be read"),
        ("[1]", "cannot be read"),
        ('{"format": "genrec-memory-split-1", "kv": 50, "rows": 60}', "not of 100 bytes"),
        ('{"format": "genrec-memory-split-1", "kv": 100, "rows": 0}', "not of 100 bytes"),
        ('{"format": "genrec-memory-split-2", "kv": 50, "rows": 50}', "not of 100 bytes"),
    ],
)
def test_what_does_not_fit_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, says: str
) -> None:
    (tmp_path / "a").write_text(text)
    assert load_split(tmp_path / "a", budget=100) is None
    assert says in caplog.text


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):  # noqa: PT011  # which one differs between systems
        save_split(tmp_path / "file" / "a", Split(kv=1, rows=1))
