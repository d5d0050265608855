"""Barriers that warps wait at: named ones, and those in shared memory."""

from __future__ import annotations

import numpy as np

from genrec_kernels.ptx_emulator.arithmetic import Lanes
from genrec_kernels.ptx_emulator.block import LANES, Blocked
from genrec_kernels.ptx_emulator.program import Instruction, PtxError
from genrec_kernels.ptx_emulator.warp_state import WarpState


def barrier(warp: WarpState, instruction: Instruction, lanes: Lanes) -> None:
    """``bar.sync``, until so many threads are there, and ``bar.arrive``, which does not wait;
    ``bar.warp.sync``: lanes run together."""
    if not lanes.all():
        raise PtxError(f"{instruction.name} by a part of a warp")
    if "warp" in instruction.op:
        return
    if "cluster" in instruction.op:
        _cluster_barrier(warp, instruction)
        return
    number = int(warp.registers.read(instruction.operands[0], "u32")[0])
    threads = warp.machine.program.block_threads
    if len(instruction.operands) > 1:
        threads = int(warp.registers.read(instruction.operands[1], "u32")[0])
    block = warp.block
    if number in warp.barrier_turn:
        if block.passed.get(number, 0) == warp.barrier_turn[number]:
            raise Blocked
        del warp.barrier_turn[number]
        return
    turn = block.passed.get(number, 0)
    block.waiting[number] = block.waiting.get(number, 0) + LANES
    if block.waiting[number] == threads:
        block.waiting[number] = 0
        block.passed[number] = turn + 1
        return
    if block.waiting[number] > threads:
        raise PtxError(f"more than {threads} threads at barrier {number}")
    if "arrive" in instruction.op:
        return
    warp.barrier_turn[number] = turn
    raise Blocked


def _cluster_barrier(warp: WarpState, instruction: Instruction) -> None:
    """``barrier.cluster``: arrive, then wait until all warps of the cluster have."""
    cluster = warp.block.cluster
    if "arrive" in instruction.op:
        warp.cluster_turn = cluster.passed
        cluster.arrive()
    elif cluster.passed == warp.cluster_turn:
        raise Blocked


def memory_barrier(warp: WarpState, instruction: Instruction, lanes: Lanes) -> None:
    """``mbarrier``: init, arrive, try_wait."""
    op = instruction.op
    shared = warp.block.shared
    if op[1] == "init":
        address = warp.registers.address(instruction.operands[0])
        count = warp.registers.read(instruction.operands[1], "u32")
        for lane in np.flatnonzero(lanes):
            shared.init_barrier(int(address[lane]), int(count[lane]))
    elif op[1] == "arrive":
        address = warp.registers.address(instruction.operands[1])
        count = np.ones(LANES, int)
        if len(instruction.operands) > 2:
            count = warp.registers.read(instruction.operands[2], "u32")
        for lane in np.flatnonzero(lanes):
            memory, place = warp.block.window(int(address[lane]))
            barrier = memory.barrier(place)
            if "expect_tx" in op:
                barrier.expect_bytes(int(count[lane]))
                barrier.arrive()
            else:
                barrier.arrive(int(count[lane]))
    elif op[1] == "try_wait":
        address = warp.registers.address(instruction.operands[1])
        parity = warp.registers.read(instruction.operands[2], "u32")
        passed = np.zeros(LANES, bool)
        for lane in np.flatnonzero(lanes):
            passed[lane] = shared.barrier(int(address[lane])).phase != parity[lane]
        warp.registers.write(instruction.operands[0], passed, lanes)
        warp.spun = not passed[lanes].all()
    else:
        raise PtxError(f"unknown instruction {instruction.name}")
