"""Times HSTU attention on one NVIDIA GPU, checks it, and appends the figures.

    python -m genrec_kernels.bench.attention --commit $(git rev-parse --short HEAD)

Each launch is captured in a CUDA graph and replayed with a cold L2 cache, so that what is timed
is the GPU's work and not Python's.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor
from triton.testing import do_bench

import genrec_kernels.hstu_attention  # noqa: F401  (registers the operators)
from genrec_kernels.bench.attention_baselines import MOST_SCORES, compiled, exact, flex, plain
from genrec_kernels.bench.attention_fp8 import fp8_cases, launch_fp8, rounded
from genrec_kernels.bench.attention_inputs import AttentionCase, AttentionInputs, make_inputs
from genrec_kernels.bench.records import RECORDS, Record, append_records, where_and_when
from genrec_kernels.dispatch import Backend
from genrec_kernels.fp8_rows import head_scales

#: Rows of the batch whose output is compared to float64.
CHECKED_ROWS = [700, 97, 64, 331, 512]
_SHORT = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}

_log = logging.getLogger(__name__)


def cases() -> list[AttentionCase]:
    """What is timed."""
    uniform = [("uniform", n) for n in (1024, 2048, 4096, 8192)]
    varied = [("varied", n) for n in (1024, 4096, 8192)]
    out = [
        AttentionCase(direction=direction, lengths=lengths, longest=longest, bias=bias)
        for direction in ("fwd", "bwd")
        for bias in (False, True)
        for lengths, longest in (*uniform, *varied, ("uniform", 16384))
        if direction == "fwd" or longest < 16384
    ]
    for heads, width in ((8, 64), (4, 256)):
        for bias in (False, True):
            for direction in ("fwd", "bwd"):
                base = AttentionCase(
                    direction=direction,
                    lengths="uniform",
                    longest=2048,
                    bias=bias,
                    heads=heads,
                    width=width,
                    suffix=f"-d{width}",
                )
                out.append(base)
                if direction == "fwd":
                    out += [
                        replace(base, longest=8192),
                        replace(base, lengths="varied", longest=1024),
                        replace(base, longest=8192, batch=16, suffix=f"-d{width}-b16"),
                    ]
    return [*out, *fp8_cases()]


def measure(run: Callable[[], Any], *, graph: bool = True) -> tuple[float, float]:
    """Median and 95th percentile of a run, in ms."""
    run()
    torch.cuda.synchronize()
    if graph:
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            run()
        run = captured.replay
    p50, p95 = do_bench(run, warmup=10, rep=60, quantiles=[0.5, 0.95])
    return p50, p95


def launch(case: AttentionCase, inputs: AttentionInputs) -> Callable[[], Any]:
    """The operator as a case runs it."""
    if case.fp8:
        return launch_fp8(inputs)
    ops = torch.ops.genrec
    if case.direction == "fwd":
        return lambda: ops.hstu_attention(*inputs.arguments)
    return lambda: ops.hstu_attention_backward(inputs.grad_out, *inputs.arguments, case.bias)


def error_of(case: AttentionCase, dtype: torch.dtype, backend: Backend) -> float:
    """Largest error of output or gradients relative to float64, at small shapes."""
    inputs = replace(make_inputs(case, dtype, CHECKED_ROWS), backend=backend)
    found = launch(case, inputs)()
    out, gradients = exact(inputs)
    if case.direction == "fwd":
        return _relative(found, out)
    return max(_relative(a, b) for a, b in zip(found, gradients, strict=True) if b is not None)


def _relative(found: Tensor, expected: Tensor) -> float:
    error = float((found.double() - expected).norm() / expected.norm())
    return error if torch.isfinite(found).all() else float("nan")


def _prepare(job: tuple[AttentionCase, torch.dtype, Backend]) -> float:
    """Compile a case's kernels, in a process of its own, and check them."""
    return error_of(*job)


def baselines(case: AttentionCase, inputs: AttentionInputs, *, slow: bool) -> dict[str, float]:
    """Median times in ms of what there is to compare to, and fits."""
    out: dict[str, float] = {}
    if case.fp8:
        return {"cutlass bfloat16": measure(launch(replace(case, fp8=False), inputs))[0]}
    if inputs.backend != "triton":
        out["triton"] = measure(launch(case, replace(inputs, backend="triton")))[0]
    if case.bias:
        without = replace(case, bias=False)
        out[f"{inputs.backend} without bias"] = measure(
            launch(without, replace(inputs, bias=None))
        )[0]
    scores = case.batch * case.heads * case.longest**2
    if case.direction == "fwd" and scores <= MOST_SCORES and inputs.backend == "triton":
        out["torch"] = measure(lambda: plain(inputs), graph=False)[0]
        if slow:
            out["torch.compile"] = measure(compiled(inputs), graph=False)[0]
    if case.direction == "fwd" and case.lengths == "uniform" and slow:
        out["flex_attention"] = measure(flex(case, inputs), graph=False)[0]
    return out


def ceilings() -> Iterable[tuple[str, float, float, float, str]]:
    """Case, p50, p95, rate and unit of a large matrix product and a large copy."""
    a, b = (torch.randn(8192, 8192, device="cuda").bfloat16() for _ in range(2))
    p50, p95 = measure(lambda: a @ b)
    yield "ceiling-matmul-8192", p50, p95, 2 * 8192**3 / p50 / 1e9, "TFLOP/s"
    # PyTorch's own copy_ goes through the copy engine, which is slower than a kernel.
    source = torch.randn(2**30, device="cuda")
    target = torch.empty_like(source)
    p50, p95 = measure(lambda: torch.neg(source, out=target))
    yield "ceiling-stream-4GiB", p50, p95, 2 * 4 * 2**30 / p50 / 1e9, "TB/s"


def main() -> None:
    """Run the cases that match and append a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commit", required=True, help="of the code that runs")
    parser.add_argument("--backend", choices=["triton", "cutlass"], default="triton")
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--match", default="", help="only cases whose name holds this")
    parser.add_argument("--slow-baselines", default="", help="cases that compile PyTorch, by comma")
    parser.add_argument("--seconds", type=float, default=600, help="start no case after this")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    shared = where_and_when(options.commit)
    begin = monotonic()

    backend: Backend = options.backend
    chosen = [(c, torch.bfloat16) for c in cases() if options.match in c.name]
    if backend == "cutlass":
        chosen = [(c, dtype) for c, dtype in chosen if c.direction == "fwd"]
    else:
        chosen = [(c, dtype) for c, dtype in chosen if not c.fp8]
    chosen += [
        (replace(c, suffix=f"{c.suffix}-{_SHORT[dtype]}"), dtype)
        for c, _ in list(chosen)
        if c.longest == 2048 and c.width == 128 and not c.fp8
        for dtype in (torch.float16, torch.float32)
        if backend == "triton" or dtype == torch.float16
    ]
    variants = {
        (replace(c, lengths="varied", longest=0, suffix=""), dtype, backend): None
        for c, dtype in chosen
    }
    with ProcessPoolExecutor(12, multiprocessing.get_context("spawn")) as pool:
        errors = dict(zip(variants, pool.map(_prepare, variants), strict=True))

    for name, p50, p95, rate, unit in ceilings():
        _finish(options.records, shared, name, "torch", "bfloat16", (p50, p95), rate, unit)
    for case, dtype in chosen:
        if monotonic() - begin > options.seconds:
            _log.warning("out of time before %s", case.name)
            break
        inputs = replace(make_inputs(case, dtype, case.rows), backend=backend)
        times = measure(launch(case, inputs))
        note = ""
        if case.bias:
            note = f"{measure(inputs.plan)[0] * 1e3:.1f} us more, once a batch: the time plan"
        if case.fp8:
            rounding = measure(partial(rounded, inputs))[0]
            scales = measure(partial(head_scales, inputs.q, inputs.k, inputs.v))[0]
            from_bf16 = _relative(
                launch(case, inputs)(), launch(replace(case, fp8=False), inputs)().double()
            )
            note = (
                f"{rounding * 1e3:.1f} us more to round q, k and v, {scales * 1e3:.1f} of them to "
                f"find the scales; {from_bf16:.4f} from bfloat16's output at this shape"
            )
        beside = {}
        if dtype == torch.bfloat16:
            slow = case.name in options.slow_baselines.split(",")
            beside = baselines(case, inputs, slow=slow)
        error = errors[replace(case, lengths="varied", longest=0, suffix=""), dtype, backend]
        rate = case.flops / times[0] / 1e9
        for reference, reference_ms in beside.items() or [("", None)]:
            _finish(
                options.records,
                shared,
                case.name,
                backend,
                "float8_e4m3fn" if case.fp8 else str(dtype).removeprefix("torch."),
                times,
                rate,
                "TFLOP/s",
                reference=reference,
                reference_ms=reference_ms,
                error=error,
                note="softmax, not SiLU" if reference == "flex_attention" else note,
            )
        del inputs
        torch.cuda.empty_cache()


def _finish(
    path: Path,
    shared: dict[str, Any],
    case: str,
    backend: str,
    dtype: str,
    times: tuple[float, float],
    rate: float,
    unit: str,
    **others: Any,
) -> None:
    record = Record(
        **shared,
        case=case,
        backend=backend,
        dtype=dtype,
        p50_ms=times[0],
        p95_ms=times[1],
        rate=rate,
        unit=unit,
        **others,
    )
    append_records(path, [record])
    _log.info("%s %s %.3f ms, %.0f %s %s", case, dtype, times[0], rate, unit, others)


if __name__ == "__main__":
    main()
