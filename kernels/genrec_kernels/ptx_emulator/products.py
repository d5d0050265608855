"""Products of matrices: issued, committed in groups, and done when they are waited for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from genrec_kernels.ptx_emulator.arithmetic import Lanes
from genrec_kernels.ptx_emulator.block import LANES
from genrec_kernels.ptx_emulator.program import Instruction, PtxError
from genrec_kernels.ptx_emulator.registers import items
from genrec_kernels.ptx_emulator.warp_state import WarpState
from genrec_kernels.ptx_emulator.wgmma import (
    accumulators_to_rows,
    from_halves,
    load_operand,
    rows_from_registers,
    rows_to_accumulators,
    shape_of,
    to_halves,
)


class Products:
    """Those of one warp that are under way."""

    def __init__(self) -> None:
        #: Issued and not committed, and those committed and not waited for.
        self._issued: list[Callable[[], None]] = []
        self._groups: deque[list[Callable[[], None]]] = deque()

    def execute(self, warp: WarpState, instruction: Instruction, lanes: Lanes) -> None:
        """``wgmma``: a product, fence, commit_group, wait_group."""
        if not lanes.all():
            raise PtxError("wgmma by a part of a warp")
        action = instruction.op[1]
        if action == "fence":
            return
        if action == "commit_group":
            self._groups.append(self._issued)
            self._issued = []
        elif action == "wait_group":
            keep = int(warp.registers.read(instruction.operands[0], "u32")[0])
            while len(self._groups) > keep:
                for product in self._groups.popleft():
                    product()
        else:
            self._issued.append(_product_of(warp, instruction))
            if warp.machine.random.random() < 0.1 and not self._groups:
                # Some products start at once, others only when they are waited for.
                for product in self._issued:
                    product()
                self._issued = []


def _product_of(warp: WarpState, instruction: Instruction) -> Callable[[], None]:
    """A product, to be computed later: from descriptors as they are now, and from what registers
    and shared memory hold then."""
    columns, depth = shape_of(instruction.op)
    element = instruction.op[-1]
    shared = warp.block.shared
    targets = items(instruction.operands[0])
    first, second, scale_d, *rest = instruction.operands[1:]
    of_registers = first.startswith("{")
    if of_registers:
        # Eight bits have no flags of transposed operands.
        transposed_a, transposed_b = 0, int(rest[2], 0) if len(rest) > 2 else 0
    else:
        transposed_a, transposed_b = (int(x, 0) for x in rest[2:] or "00")
    a_bits = 0 if of_registers else int(warp.registers.read(first, "u64")[0])
    b_bits = int(warp.registers.read(second, "u64")[0])
    adds = bool(warp.registers.read(scale_d, "pred")[0])
    # Sums in half precision are two neighbouring columns in a register.
    halves = "f16" in instruction.op[:-2]

    def compute() -> None:
        if of_registers:
            a = rows_from_registers([warp.registers.read(x, "b32") for x in items(first)], element)
        else:
            rows = load_operand(
                shared, a_bits, 64, depth, transposed=bool(transposed_a), element=element
            )
            place = warp.index % 4 * 16
            a = rows[place : place + 16]
        b = load_operand(
            shared, b_bits, columns, depth, transposed=bool(transposed_b), element=element
        )
        with np.errstate(all="ignore"):
            result = a @ b.T
        if adds:
            old = np.stack([warp.registers.read(x, "b32" if halves else "f32") for x in targets])
            result = result + accumulators_to_rows(from_halves(old) if halves else old)
        sums = rows_to_accumulators(result)
        for name, value in zip(targets, to_halves(sums) if halves else sums, strict=True):
            warp.registers.write(name, value, np.ones(LANES, bool))

    return compute
