"""The `genrec` command.

Exit codes: 0 done, 1 something broke, 2 a mistake that the user can mend (one line says which).
"""

from __future__ import annotations

import logging
import sys

import typer

from genrec_model.errors import GenrecError, UserError
from genrec_pipelines.commands.bench import bench
from genrec_pipelines.commands.check import check
from genrec_pipelines.commands.compile import compile_pipeline
from genrec_pipelines.commands.config import config
from genrec_pipelines.commands.demo import demo
from genrec_pipelines.commands.recommend import recommend
from genrec_pipelines.commands.registry import promote, rollback, versions
from genrec_pipelines.commands.rollout import rollout
from genrec_pipelines.commands.run import run
from genrec_pipelines.commands.serve import serve
from genrec_pipelines.commands.submit import submit

app = typer.Typer(
    name="genrec",
    help="Train, validate, serve and safely roll out HSTU generative recommenders.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(check)
app.command()(config)
app.command()(run)
app.command()(demo)
app.command(name="compile")(compile_pipeline)
app.command()(submit)
app.command()(serve)
app.command()(recommend)
app.command()(rollout)
app.command()(promote)
app.command()(rollback)
app.command()(versions)
app.add_typer(bench, name="bench")


def main() -> None:
    """Run the command; a known error becomes one line on standard error."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        app()
    except UserError as error:
        typer.echo(f"genrec: {error}", err=True)
        sys.exit(2)
    except GenrecError as error:
        typer.echo(f"genrec: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
