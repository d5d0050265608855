"""What all steps share: the image they run in, their log, and how they fail."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kfp import dsl

from genrec_model.errors import GenrecError, UserError
from genrec_model.settings import settings


def component(function: Callable[..., Any]) -> Any:
    """A Kubeflow component that runs in the project's image, where everything is installed."""
    return dsl.component(function, base_image=settings().image, install_kfp_package=False)


@contextmanager
def step(name: str, output: dsl.Artifact | None = None) -> Iterator[None]:
    """Run the body of a step.

    Its log goes to standard error. Its duration in seconds goes into the metadata of `output`.
    An error of this project is also left in the settings' `error_file`, for whoever started the
    pipeline: Kubeflow itself reports only that the step failed.
    """
    # Kubeflow's executor has set up logging already, without the names of loggers.
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", force=True)
    for chatty in ("onnx_ir", "onnxscript", "torch.onnx", "great_expectations", "httpx", "mlflow"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    if settings().threads:
        import torch

        torch.set_num_threads(settings().threads)
    started = time.perf_counter()
    try:
        yield
    except GenrecError as error:
        target = settings().error_file
        if target is not None:
            mendable = isinstance(error, UserError)
            target.write_text(
                json.dumps({"step": name, "message": str(error), "mendable": mendable})
            )
        raise
    if output is not None:
        output.metadata["seconds"] = round(time.perf_counter() - started, 2)
