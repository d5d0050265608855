"""MovieLens: 100K from its RecBole files, and every release from a folder or a zip."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl

from genrec_model.data.bundle import Bundle
from genrec_model.data.dataset import Dataset, items_of
from genrec_model.data.events import DAY_S, sort_events
from genrec_model.data.spec import DatasetSpec, TaskRule, TaskSpec
from genrec_model.data.tables import cast_columns, parse_table, read_table
from genrec_model.errors import DataError
from genrec_model.settings import settings

WHOLE_STARS = (1.0, 2.0, 3.0, 4.0, 5.0)
HALF_STARS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0)

_INTER, _ITEM = "ml-100k.inter", "ml-100k.item"


def movielens_spec(name: str, title: str, *, stars: tuple[float, ...]) -> DatasetSpec:
    """Specification of a release.

    Each rating is an action of its own, so that an event's action token carries the rating.
    """
    return DatasetSpec(
        name=name,
        title=title,
        actions=tuple(f"rated_{star:g}" for star in stars),
        tasks=(
            TaskSpec(
                name="engagement",
                rule=TaskRule(kind="value_at_least", threshold=4.0),
                description="the user rates the film 4 stars or more",
            ),
            TaskSpec(
                name="retention",
                # People rate in sittings: an hour apart is another sitting.
                rule=TaskRule(kind="returns_within", min_gap_s=3600, horizon_s=7 * DAY_S),
                description="the user rates again in a later session, 1 hour to 7 days later",
            ),
        ),
        unlabelled={"monetization": "MovieLens has no money"},
        exclude_seen=True,
        value_unit="stars",
        licence="GroupLens: research use, no redistribution",
    )


def load_movielens_100k(path: Path | None) -> Dataset:
    """MovieLens-100K from ``ml-100k.inter`` and ``ml-100k.item``.

    Args:
        path: folder with both files; ``<data_dir>/ml-100k`` if not given.

    Raises:
        DataError: a file is missing or broken.
    """
    folder = path or settings().data_dir / "ml-100k"
    for name in (_INTER, _ITEM):
        if not (folder / name).is_file():
            raise DataError(f"{folder / name}: MovieLens-100K is not here: run `make data`")
    inter, item = folder / _INTER, folder / _ITEM
    ratings = cast_columns(
        read_table(
            inter,
            columns=("user_id:token", "item_id:token", "rating:float", "timestamp:float"),
        ),
        inter,
        user=pl.col("user_id:token"),
        item=pl.col("item_id:token"),
        rating=pl.col("rating:float"),
        timestamp=pl.col("timestamp:float"),
    )
    # Titles may hold quotation marks, which mean nothing in these files.
    names = parse_table(
        item.read_bytes(),
        "tsv",
        item,
        columns=("item_id:token", "movie_title:token_seq", "release_year:token"),
        quoted=False,
    )
    year = pl.col("release_year:token").cast(pl.String)
    dated = pl.format("{} ({})", pl.col("movie_title:token_seq"), year)
    titles = cast_columns(
        names,
        item,
        item_id=pl.col("item_id:token").cast(pl.Int64),
        title=pl.when(year.str.contains(r"^\d{4}$"))
        .then(dated)
        .otherwise(pl.col("movie_title:token_seq")),
    )
    return _dataset("movielens-100k", "MovieLens-100K", ratings, titles, inter)


def load_movielens(path: Path) -> Dataset:
    """Any MovieLens release from a folder or zip file, told by its files.

    ``ratings.parquet`` (user, movie, rating, pos, timestamp), ``ratings.csv`` (20M, 25M, latest),
    ``ratings.dat`` (1M, 10M) or ``u.data`` (100K); titles where the release brings them.

    Raises:
        DataError: no such file is there, or it is broken.
    """
    bundle = Bundle(path)
    readers: dict[str, Callable[[Bundle, str], tuple[pl.DataFrame, pl.DataFrame | None]]] = {
        "ratings.parquet": _read_parquet,
        "ratings.csv": _read_csv,
        "ratings.dat": _read_dat,
        "u.data": _read_100k,
    }
    for name, reader in readers.items():
        member = bundle.find(name)
        if member is not None:
            ratings, titles = reader(bundle, member)
            return _dataset("movielens", "MovieLens", ratings, titles, bundle.label(member))
    raise DataError(f"{path}: no MovieLens here: one of {', '.join(readers)} is needed")


def _dataset(
    name: str, title: str, ratings: pl.DataFrame, titles: pl.DataFrame | None, source: Path | str
) -> Dataset:
    """Turn ``user, item, rating, timestamp`` (source order breaks ties) into a data set."""
    rating = pl.col("rating").cast(pl.Float64)
    events = cast_columns(
        ratings,
        source,
        user_id=pl.col("user").cast(pl.Int64),
        item_id=pl.col("item").cast(pl.Int64),
        timestamp=pl.col("timestamp").cast(pl.Int64),
        rating=rating,
    )
    levels = events["rating"].drop_nulls().unique()
    stars = WHOLE_STARS if levels.is_in(WHOLE_STARS).all() else HALF_STARS
    odd = sorted(set(levels) - set(stars))
    if odd:
        raise DataError(f"{source}: rating {odd[0]:g} is not a MovieLens rating (0.5 to 5 stars)")
    names = {star: f"rated_{star:g}" for star in stars}
    events = events.select(
        "user_id",
        "item_id",
        "timestamp",
        action=pl.col("rating").replace_strict(names, return_dtype=pl.String),
        value=pl.col("rating").cast(pl.Float32),
    )
    spec = movielens_spec(name, title, stars=stars)
    return Dataset(spec=spec, events=sort_events(events), items=items_of(events, titles))


def _read_parquet(bundle: Bundle, member: str) -> tuple[pl.DataFrame, None]:
    columns = ("user", "movie", "rating", "pos", "timestamp")
    table = parse_table(bundle.read(member), "parquet", bundle.label(member), columns=columns)
    # Half of the timestamps are tied: `pos` holds the true order inside a user.
    ordered = table.sort("user", "pos", maintain_order=True)
    return ordered.select("user", "rating", "timestamp", item="movie"), None


def _read_csv(bundle: Bundle, member: str) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    columns = ("userId", "movieId", "rating", "timestamp")
    table = parse_table(bundle.read(member), "csv", bundle.label(member), columns=columns)
    ratings = table.select("rating", "timestamp", user="userId", item="movieId")
    movies = bundle.find("movies.csv")
    if movies is None:
        return ratings, None
    source = bundle.label(movies)
    names = parse_table(bundle.read(movies), "csv", source, columns=("movieId", "title"))
    return ratings, _titles(names, source, item="movieId", title="title")


def _read_dat(bundle: Bundle, member: str) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    ratings = _split_lines(bundle, member, ("user", "item", "rating", "timestamp"), "::")
    movies = bundle.find("movies.dat")
    if movies is None:
        return ratings, None
    names = _split_lines(bundle, movies, ("item", "title"), "::")
    return ratings, _titles(names, bundle.label(movies), item="item", title="title")


def _read_100k(bundle: Bundle, member: str) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    ratings = _split_lines(bundle, member, ("user", "item", "rating", "timestamp"), "\t")
    movies = bundle.find("u.item")
    if movies is None:
        return ratings, None
    names = _split_lines(bundle, movies, ("item", "title"), "|")
    return ratings, _titles(names, bundle.label(movies), item="item", title="title")


def _split_lines(
    bundle: Bundle, member: str, columns: tuple[str, ...], separator: str
) -> pl.DataFrame:
    """Read a Latin-1 file; polars' CSV reader knows neither the encoding nor ``::``."""
    source = bundle.label(member)
    text = bundle.read(member).decode("latin-1")
    # Not splitlines(): Latin-1 titles may hold bytes that it takes for line ends.
    lines = [line for line in text.replace("\r\n", "\n").split("\n") if line]
    if not lines:
        raise DataError(f"{source}: the file is empty: fetch it again")
    fields = pl.Series("line", lines).str.split_exact(separator, len(columns) - 1).struct.unnest()
    table = fields.select(**{name: pl.col(f"field_{place}") for place, name in enumerate(columns)})
    broken = table.with_row_index("line").filter(pl.any_horizontal(pl.all().is_null()))
    if broken.height:
        raise DataError(
            f"{source}: line {broken['line'][0] + 1} has fewer than {len(columns)} fields "
            f"between {separator!r}: fetch the file again"
        )
    return table


def _titles(names: pl.DataFrame, source: str, *, item: str, title: str) -> pl.DataFrame:
    return cast_columns(
        names, source, item_id=pl.col(item).cast(pl.Int64), title=pl.col(title).cast(pl.String)
    )
