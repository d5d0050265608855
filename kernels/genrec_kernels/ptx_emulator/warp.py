"""A warp: its registers, where its lanes are, and what each instruction does."""

from __future__ import annotations

import random
import re
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from genrec_kernels.ptx_emulator.arithmetic import TYPES, Lanes, compute, operand_types, result_type
from genrec_kernels.ptx_emulator.memory import GlobalMemory, SharedMemory, TensorMap
from genrec_kernels.ptx_emulator.program import Instruction, Program, PtxError
from genrec_kernels.ptx_emulator.wgmma import (
    accumulators_to_rows,
    load_operand,
    rows_from_registers,
    rows_to_accumulators,
    shape_of,
)

LANES = 32
_ADDRESS = re.compile(r"\[\s*([^\s+\]]+)\s*(?:\+\s*(-?\w+))?\s*\]")
#: Parameters are addressed by this and their place.
PARAMETER_SPACE = 1 << 60
_PARAMETER_SPACING = 1 << 16


@dataclass
class Block:
    """What the warps of a block share."""

    index: int
    shared: SharedMemory = field(default_factory=SharedMemory)
    #: How many threads wait at a named barrier, and how often it was passed.
    waiting: dict[int, int] = field(default_factory=dict)
    passed: dict[int, int] = field(default_factory=dict)


@dataclass
class Machine:
    """What all warps of a launch share.

    Args:
        parameters: bytes, or a tensor map, for each of the kernel's parameters.
        copies: copies that were started and are not done.
    """

    program: Program
    parameters: list[bytes | TensorMap]
    memory: GlobalMemory
    num_blocks: int
    random: random.Random
    copies: list[Callable[[], None]] = field(default_factory=list)


@dataclass
class _Path:
    """Lanes that run together."""

    at: int
    until: int
    lanes: Lanes


class Blocked(Exception):
    """The warp waits for others; it will try the same instruction again."""


class Warp:
    """32 threads of a block."""

    def __init__(self, machine: Machine, block: Block, index: int):
        self.machine = machine
        self.block = block
        self.index = index
        end = len(machine.program.instructions)
        self.paths = [_Path(0, end, np.ones(LANES, bool))]
        self.registers: dict[str, Lanes] = {}
        self.spun = False
        #: Products that were issued and not committed, and those committed and not waited for.
        self._issued: list[Callable[[], None]] = []
        self._groups: deque[list[Callable[[], None]]] = deque()
        self._barrier_turn: dict[int, int] = {}

    @property
    def done(self) -> bool:
        """Whether every lane has returned."""
        return not self.paths

    def run(self) -> bool:
        """Run until the warp has to wait; whether it moved."""
        moved = False
        while self.paths:
            path = self.paths[-1]
            if path.at == path.until or not path.lanes.any():
                self.paths.pop()
                continue
            instruction = self.machine.program.instructions[path.at]
            try:
                self._execute(instruction, path)
            except Blocked:
                return moved
            except Exception as error:
                error.add_note(
                    f"block {self.block.index}, warp {self.index}: {instruction.name} "
                    f"{', '.join(instruction.operands)}"[:300]
                )
                raise
            # Waiting in a loop is no progress, or a deadlock would never be seen.
            moved |= not self.spun and instruction.op[0] != "bra"
        return moved

    # Operands

    def _read(self, operand: str, kind: str) -> Lanes:
        dtype = TYPES[kind]
        if operand in self.registers:
            value = self.registers[operand]
            if value.dtype == dtype:
                return value
            if value.dtype.itemsize == dtype.itemsize and dtype != np.bool_:
                return value.view(dtype)
            return value.astype(dtype) if dtype.kind != "f" else value.astype("u4").view(dtype)
        return np.broadcast_to(self._constant(operand, dtype), LANES)

    def _constant(self, operand: str, dtype: np.dtype[Any]) -> Lanes:
        if operand in self.machine.program.parameters:
            place = list(self.machine.program.parameters).index(operand)
            return np.array(PARAMETER_SPACE + place * _PARAMETER_SPACING).astype(dtype)
        if operand.startswith("%"):
            return self._special(operand).astype(dtype)
        if operand.startswith("0f"):
            return np.array(struct.unpack(">f", bytes.fromhex(operand[2:]))[0], np.float32)
        if operand.startswith("__dynamic_shmem"):
            return np.array(0).astype(dtype)
        try:
            value = int(operand.removesuffix("U"), 0)
        except ValueError:
            raise PtxError(f"unknown operand {operand!r}, or a register never written") from None
        return np.array(value & (1 << 8 * dtype.itemsize) - 1, f"u{dtype.itemsize}").view(
            dtype if dtype.kind != "b" else "u1"
        )

    def _special(self, name: str) -> Lanes:
        lane = np.arange(LANES)
        values: dict[str, Lanes] = {
            "%tid.x": self.index * LANES + lane,
            "%tid.y": np.zeros(LANES, int),
            "%tid.z": np.zeros(LANES, int),
            "%laneid": lane,
            "%ctaid.x": np.full(LANES, self.block.index),
            "%nctaid.x": np.full(LANES, self.machine.num_blocks),
            "%cluster_ctarank": np.zeros(LANES, int),
            "%ntid.x": np.full(LANES, self.machine.program.block_threads),
        }
        if name not in values:
            raise PtxError(f"unknown operand {name!r}, or a register never written")
        return values[name]

    def _write(self, register: str, value: Lanes, lanes: Lanes) -> None:
        if register == "_":
            return
        value = np.asarray(value)
        if value.dtype.kind in "if":
            value = value.view(f"u{value.dtype.itemsize}")
        old = self.registers.get(register)
        if lanes.all() or old is None:
            self.registers[register] = np.array(np.broadcast_to(value, LANES))
        else:
            # A 16-bit result in a wider register, or the other way round.
            self.registers[register] = np.where(lanes, value.astype(old.dtype), old)

    def _address(self, operand: str) -> Lanes:
        match = _ADDRESS.fullmatch(operand)
        if match is None:
            raise PtxError(f"no address: {operand}")
        base = self._read(match.group(1), "u64").astype(np.int64)
        return base + int(match.group(2) or "0", 0)

    # Control

    def _execute(self, instruction: Instruction, path: _Path) -> None:
        lanes = path.lanes
        if instruction.guard is not None:
            held = self._read(instruction.guard, "pred")
            lanes = lanes & (~held if instruction.negated else held)
        name = instruction.op[0]
        if name == "bra":
            self._branch(instruction, path, lanes)
            return
        if name == "ret":
            for other in self.paths:
                other.lanes = other.lanes & ~lanes
            path.at += 1
            return
        if lanes.any():
            run = getattr(self, f"_do_{name}", None)
            if run is not None:
                run(instruction, lanes)
            else:
                self._arithmetic(instruction, lanes)
        path.at += 1

    def _branch(self, instruction: Instruction, path: _Path, taken: Lanes) -> None:
        target = self.machine.program.labels[instruction.operands[0]]
        stay = path.lanes & ~taken
        back = target <= path.at
        if not stay.any():
            path.at = target
        elif not taken.any():
            path.at += 1
        else:
            here, meet = path.at, self.machine.program.meets[path.at]
            path.at = meet
            self.paths.append(_Path(here + 1, meet, stay))
            self.paths.append(_Path(target, meet, taken))
        if back and self.spun:
            # A failed wait that starts over: let others run first.
            self.spun = False
            raise Blocked

    def _arithmetic(self, instruction: Instruction, lanes: Lanes) -> None:
        op = instruction.op
        target, *sources = instruction.operands
        if op[0] == "mov" and target.startswith("{"):
            self._unpack(target, sources[0], op[-1], lanes)
            return
        if op[0] == "mov" and sources[0].startswith("{"):
            self._write(target, self._packed(sources[0], op[-1]), lanes)
            return
        kinds = operand_types(op, len(sources))
        found = compute(op, [self._read(s, k) for s, k in zip(sources, kinds, strict=True)])
        if found is None:
            raise PtxError(f"unknown instruction {instruction.name}")
        self._write(target, np.asarray(found).astype(TYPES[result_type(op)]), lanes)

    def _packed(self, operand: str, kind: str) -> Lanes:
        parts = _items(operand)
        bits = TYPES[kind].itemsize * 8 // len(parts)
        value = np.zeros(LANES, np.uint64)
        for i, part in enumerate(parts):
            value |= self._read(part, f"u{bits}").astype(np.uint64) << np.uint64(bits * i)
        return value.astype(TYPES[kind])

    def _unpack(self, target: str, source: str, kind: str, lanes: Lanes) -> None:
        parts = _items(target)
        bits = TYPES[kind].itemsize * 8 // len(parts)
        value = self._read(source, kind).astype(np.uint64)
        for i, part in enumerate(parts):
            self._write(part, (value >> np.uint64(bits * i)).astype(f"u{bits // 8}"), lanes)

    # Memory

    def _do_ld(self, instruction: Instruction, lanes: Lanes) -> None:
        kind = instruction.op[-1]
        size = TYPES[kind].itemsize
        names = _items(instruction.operands[0])
        address = self._address(instruction.operands[1])
        values = np.zeros((len(names), LANES), f"u{size}")
        for lane in np.flatnonzero(lanes):
            raw = self._bytes(instruction.op[1], int(address[lane]), size * len(names))
            values[:, lane] = raw.view(f"u{size}")
        for name, value in zip(names, values, strict=True):
            self._write(name, value.view(TYPES[kind]), lanes)

    def _do_st(self, instruction: Instruction, lanes: Lanes) -> None:
        kind = instruction.op[-1]
        address = self._address(instruction.operands[0])
        values = np.stack([self._read(x, kind) for x in _items(instruction.operands[1])])
        for lane in np.flatnonzero(lanes):
            raw = np.ascontiguousarray(values[:, lane]).view(np.uint8)
            self._bytes(instruction.op[1], int(address[lane]), raw.size)[:] = raw

    def _bytes(self, space: str, address: int, size: int) -> Lanes:
        if space.startswith("shared"):
            return self.block.shared.at(address, size)
        if space == "param":
            place, offset = divmod(address - PARAMETER_SPACE, _PARAMETER_SPACING)
            data = self.machine.parameters[place]
            if isinstance(data, TensorMap) or offset + size > len(data):
                raise PtxError(f"parameter {place} has no {size} bytes at {offset}")
            return np.frombuffer(data, np.uint8)[offset : offset + size]
        return self.machine.memory.at(address, size)

    def _do_atom(self, instruction: Instruction, lanes: Lanes) -> None:
        kind = instruction.op[-1]
        target, where, value = instruction.operands
        if "add" not in instruction.op:
            raise PtxError(f"unknown instruction {instruction.name}")
        address, added = self._address(where), self._read(value, kind)
        old = np.zeros(LANES, TYPES[kind])
        for lane in np.flatnonzero(lanes):
            cell = self.machine.memory.at(int(address[lane]), TYPES[kind].itemsize)
            old[lane] = cell.view(TYPES[kind])[0]
            cell.view(TYPES[kind])[0] += added[lane]
        self._write(target, old, lanes)

    # Warps

    def _do_shfl(self, instruction: Instruction, lanes: Lanes) -> None:
        target, source, lane, *_ = instruction.operands
        from_lane = self._read(lane, "u32") % LANES
        if "bfly" in instruction.op:
            from_lane = np.arange(LANES) ^ from_lane
        elif "idx" not in instruction.op:
            raise PtxError(f"unknown instruction {instruction.name}")
        self._write(target.split("|")[0], self._read(source, "b32")[from_lane], lanes)

    def _do_redux(self, instruction: Instruction, lanes: Lanes) -> None:
        if not lanes.all():
            raise PtxError("redux.sync by a part of a warp")
        value = self._read(instruction.operands[1], instruction.op[-1])
        reductions: dict[str, Any] = {"min": np.min, "max": np.max, "add": np.sum}
        result = np.full(LANES, reductions[instruction.op[2]](value), value.dtype)
        self._write(instruction.operands[0], result, lanes)

    def _do_vote(self, instruction: Instruction, lanes: Lanes) -> None:
        if not lanes.all() or "ballot" not in instruction.op:
            raise PtxError(f"{instruction.name} by a part of a warp, or not known")
        bits = self._read(instruction.operands[1], "pred")
        ballot = sum(1 << int(lane) for lane in np.flatnonzero(bits))
        self._write(instruction.operands[0], np.full(LANES, ballot, np.uint32), lanes)

    def _do_elect(self, instruction: Instruction, lanes: Lanes) -> None:
        if not lanes.all():
            raise PtxError("elect.sync by a part of a warp")
        leader, chosen = instruction.operands[0].split("|")
        self._write(leader, np.zeros(LANES, np.uint32), lanes)
        self._write(chosen, np.arange(LANES) == 0, lanes)

    def _do_bar(self, instruction: Instruction, lanes: Lanes) -> None:
        if not lanes.all():
            raise PtxError("bar.sync by a part of a warp")
        number = int(self._read(instruction.operands[0], "u32")[0])
        threads = self.machine.program.block_threads
        if len(instruction.operands) > 1:
            threads = int(self._read(instruction.operands[1], "u32")[0])
        block = self.block
        if number in self._barrier_turn:
            if block.passed.get(number, 0) == self._barrier_turn[number]:
                raise Blocked
            del self._barrier_turn[number]
            return
        turn = block.passed.get(number, 0)
        block.waiting[number] = block.waiting.get(number, 0) + LANES
        if block.waiting[number] == threads:
            block.waiting[number] = 0
            block.passed[number] = turn + 1
            return
        self._barrier_turn[number] = turn
        raise Blocked

    _do_barrier = _do_bar

    # Barriers in shared memory, and copies

    def _do_mbarrier(self, instruction: Instruction, lanes: Lanes) -> None:
        op = instruction.op
        shared = self.block.shared
        if op[1] == "init":
            address = self._address(instruction.operands[0])
            count = self._read(instruction.operands[1], "u32")
            for lane in np.flatnonzero(lanes):
                shared.init_barrier(int(address[lane]), int(count[lane]))
        elif op[1] == "arrive":
            address = self._address(instruction.operands[1])
            count = np.ones(LANES, int)
            if len(instruction.operands) > 2:
                count = self._read(instruction.operands[2], "u32")
            for lane in np.flatnonzero(lanes):
                barrier = shared.barrier(int(address[lane]))
                if "expect_tx" in op:
                    barrier.expect_bytes(int(count[lane]))
                    barrier.arrive()
                else:
                    barrier.arrive(int(count[lane]))
        elif op[1] == "try_wait":
            address = self._address(instruction.operands[1])
            parity = self._read(instruction.operands[2], "u32")
            passed = np.zeros(LANES, bool)
            for lane in np.flatnonzero(lanes):
                passed[lane] = shared.barrier(int(address[lane])).phase != parity[lane]
            self._write(instruction.operands[0], passed, lanes)
            self.spun = not passed[lanes].all()
        else:
            raise PtxError(f"unknown instruction {instruction.name}")

    def _do_cp(self, instruction: Instruction, lanes: Lanes) -> None:
        if instruction.op[:3] != ("cp", "async", "bulk"):
            raise PtxError(f"unknown instruction {instruction.name}")
        if instruction.op[3] != "tensor":
            self._copy_bytes(instruction, lanes)
            return
        target, source, barrier_at, *_ = instruction.operands
        shared = self.block.shared
        handle, coordinates = _split_pair(source)
        for lane in np.flatnonzero(lanes):
            to = int(self._address(target)[lane])
            barrier = shared.barrier(int(self._address(barrier_at)[lane]))
            place = (int(self._read(handle, "u64")[lane]) - PARAMETER_SPACE) // _PARAMETER_SPACING
            tensor = self.machine.parameters[place]
            if not isinstance(tensor, TensorMap):
                raise PtxError(f"parameter {place} is no tensor map")
            origin = tuple(int(self._read(x, "s32")[lane]) for x in reversed(_items(coordinates)))

            def copy(
                tensor: TensorMap = tensor,
                to: int = to,
                origin: tuple[int, ...] = origin,
                barrier: Any = barrier,
            ) -> None:
                tensor.copy_into(shared, to, origin)
                barrier.bytes_came(tensor.bytes_of_box)

            self.machine.copies.append(copy)

    def _do_mapa(self, instruction: Instruction, lanes: Lanes) -> None:
        target, source, _ = instruction.operands  # clusters are of one block
        self._write(target, self._read(source, "u32"), lanes)

    def _copy_bytes(self, instruction: Instruction, lanes: Lanes) -> None:
        target, source, count, barrier_at = instruction.operands
        shared = self.block.shared
        for lane in np.flatnonzero(lanes):
            size = int(self._read(count, "u32")[lane])
            to = int(self._address(target)[lane])
            origin = int(self._address(source)[lane])
            if size % 16 or to % 16 or origin % 16:
                raise PtxError(f"{size} bytes from {origin} to {to}: not multiples of 16")
            data = self.machine.memory.at(origin, size)
            barrier = shared.barrier(int(self._address(barrier_at)[lane]))

            def copy(
                data: Lanes = data, to: int = to, size: int = size, barrier: Any = barrier
            ) -> None:
                shared.at(to, size)[:] = data
                barrier.bytes_came(size)

            self.machine.copies.append(copy)

    # Products

    def _do_wgmma(self, instruction: Instruction, lanes: Lanes) -> None:
        if not lanes.all():
            raise PtxError("wgmma by a part of a warp")
        action = instruction.op[1]
        if action == "fence":
            return
        if action == "commit_group":
            self._groups.append(self._issued)
            self._issued = []
        elif action == "wait_group":
            keep = int(self._read(instruction.operands[0], "u32")[0])
            while len(self._groups) > keep:
                for product in self._groups.popleft():
                    product()
        else:
            self._issued.append(lambda: self._product(instruction))
            if self.machine.random.random() < 0.1 and not self._groups:
                # Some products start at once, others only when they are waited for.
                for product in self._issued:
                    product()
                self._issued = []

    def _product(self, instruction: Instruction) -> None:
        columns, depth = shape_of(instruction.op)
        element = instruction.op[-1]
        shared = self.block.shared
        targets = _items(instruction.operands[0])
        first, second, scale_d, *rest = instruction.operands[1:]
        if first.startswith("{"):
            a = rows_from_registers([self._read(x, "b32") for x in _items(first)], element)
            # Eight bits have no flags of transposed operands.
            transposed_b = int(rest[2], 0) if len(rest) > 2 else 0
        else:
            transposed_a, transposed_b = (int(x, 0) for x in rest[2:] or "00")
            bits = int(self._read(first, "u64")[0])
            rows = load_operand(
                shared, bits, 64, depth, transposed=bool(transposed_a), element=element
            )
            place = self.index % 4 * 16
            a = rows[place : place + 16]
        bits = int(self._read(second, "u64")[0])
        b = load_operand(
            shared, bits, columns, depth, transposed=bool(transposed_b), element=element
        )
        with np.errstate(all="ignore"):
            result = a @ b.T
        if self._read(scale_d, "pred")[0]:
            old = np.stack([self._read(x, "f32") for x in targets])
            result = result + accumulators_to_rows(old)
        everyone = np.ones(LANES, bool)
        for name, value in zip(targets, rows_to_accumulators(result), strict=True):
            self._write(name, value, everyone)

    # Without effect here

    def _nothing(self, *_: object) -> None:
        return

    _do_setmaxnreg = _nothing
    _do_fence = _nothing
    _do_prefetch = _nothing
    _do_griddepcontrol = _nothing


def _items(operand: str) -> list[str]:
    return [x.strip() for x in operand.strip("{} ").split(",")]


def _split_pair(operand: str) -> tuple[str, str]:
    """``[handle, {a, b}]``."""
    handle, _, coordinates = operand.strip("[] ").partition(",")
    return handle.strip(), coordinates.strip()
