"""What the lanes of a warp do together."""

from __future__ import annotations

from typing import Any

import numpy as np

from genrec_kernels.ptx_emulator.arithmetic import Lanes
from genrec_kernels.ptx_emulator.block import LANES
from genrec_kernels.ptx_emulator.program import Instruction, PtxError
from genrec_kernels.ptx_emulator.warp_state import WarpState


def shuffle(warp: WarpState, instruction: Instruction, lanes: Lanes) -> None:
    """``shfl``: idx and bfly."""
    target, source, lane, *_ = instruction.operands
    from_lane = warp.registers.read(lane, "u32") % LANES
    if "bfly" in instruction.op:
        from_lane = np.arange(LANES) ^ from_lane
    elif "idx" not in instruction.op:
        raise PtxError(f"unknown instruction {instruction.name}")
    warp.registers.write(target.split("|")[0], warp.registers.read(source, "b32")[from_lane], lanes)


def reduce(warp: WarpState, instruction: Instruction, lanes: Lanes) -> None:
    """``redux.sync``."""
    if not lanes.all():
        raise PtxError("redux.sync by a part of a warp")
    value = warp.registers.read(instruction.operands[1], instruction.op[-1])
    reductions: dict[str, Any] = {"min": np.min, "max": np.max, "add": np.sum}
    result = np.full(LANES, reductions[instruction.op[2]](value), value.dtype)
    warp.registers.write(instruction.operands[0], result, lanes)


def ballot(warp: WarpState, instruction: Instruction, lanes: Lanes) -> None:
    """``vote.sync.ballot``."""
    if not lanes.all() or "ballot" not in instruction.op:
        raise PtxError(f"{instruction.name} by a part of a warp, or not known")
    votes = warp.registers.read(instruction.operands[1], "pred")
    bits = sum(1 << int(lane) for lane in np.flatnonzero(votes))
    warp.registers.write(instruction.operands[0], np.full(LANES, bits, np.uint32), lanes)


def elect(warp: WarpState, instruction: Instruction, lanes: Lanes) -> None:
    """``elect.sync``: the first lane."""
    if not lanes.all():
        raise PtxError("elect.sync by a part of a warp")
    leader, chosen = instruction.operands[0].split("|")
    warp.registers.write(leader, np.zeros(LANES, np.uint32), lanes)
    warp.registers.write(chosen, np.arange(LANES) == 0, lanes)
