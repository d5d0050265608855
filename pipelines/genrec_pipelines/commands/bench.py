"""`genrec bench`: measurements that leave records."""

from __future__ import annotations

import typer

from genrec_pipelines.commands.bench_cache import cache
from genrec_pipelines.commands.bench_pages import pages
from genrec_pipelines.commands.bench_prefetch import prefetch
from genrec_pipelines.commands.bench_serve import serve
from genrec_serving.bench.load import load

bench = typer.Typer(no_args_is_help=True, help="Measure on this machine, and record it.")
bench.command()(serve)
bench.command()(load)
bench.command()(cache)
bench.command()(pages)
bench.command()(prefetch)
