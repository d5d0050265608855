"""A warp: where its lanes are, and which instruction comes next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from genrec_kernels.ptx_emulator.arithmetic import TYPES, Lanes, compute, operand_types, result_type
from genrec_kernels.ptx_emulator.barriers import barrier, memory_barrier
from genrec_kernels.ptx_emulator.block import LANES, Block, Blocked, Machine
from genrec_kernels.ptx_emulator.copies import copy_bulk, map_address
from genrec_kernels.ptx_emulator.memory_instructions import atomic_add, load, store
from genrec_kernels.ptx_emulator.products import Products
from genrec_kernels.ptx_emulator.program import Instruction, PtxError
from genrec_kernels.ptx_emulator.warp_instructions import ballot, elect, reduce, shuffle
from genrec_kernels.ptx_emulator.warp_state import WarpState


@dataclass
class _Path:
    """Lanes that run together."""

    at: int
    until: int
    lanes: Lanes


class Warp(WarpState):
    """Runs the threads' instructions; `products` are those under way."""

    def __init__(self, machine: Machine, block: Block, index: int):
        super().__init__(machine, block, index)
        self.products = Products()
        end = len(machine.program.instructions)
        self._paths = [_Path(0, end, np.ones(LANES, bool))]

    @property
    def done(self) -> bool:
        """Whether every lane has returned."""
        return not self._paths

    def run(self) -> bool:
        """Run until the warp has to wait; whether it moved."""
        moved = False
        while self._paths:
            path = self._paths[-1]
            if path.at == path.until or not path.lanes.any():
                self._paths.pop()
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

    def _execute(self, instruction: Instruction, path: _Path) -> None:
        lanes = path.lanes
        if instruction.guard is not None:
            held = self.registers.read(instruction.guard, "pred")
            lanes = lanes & (~held if instruction.negated else held)
        name = instruction.op[0]
        if name == "bra":
            self._branch(instruction, path, lanes)
            return
        if name == "ret":
            for other in self._paths:
                other.lanes = other.lanes & ~lanes
            path.at += 1
            return
        if lanes.any():
            if name == "wgmma":
                self.products.execute(self, instruction, lanes)
            elif name in _INSTRUCTIONS:
                _INSTRUCTIONS[name](self, instruction, lanes)
            elif name not in _WITHOUT_EFFECT:
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
            self._paths.append(_Path(here + 1, meet, stay))
            self._paths.append(_Path(target, meet, taken))
        if back and self.spun:
            # A failed wait that starts over: let others run first.
            self.spun = False
            raise Blocked

    def _arithmetic(self, instruction: Instruction, lanes: Lanes) -> None:
        op = instruction.op
        target, *sources = instruction.operands
        if op[0] == "mov" and target.startswith("{"):
            self.registers.unpack(target, sources[0], op[-1], lanes)
            return
        if op[0] == "mov" and sources[0].startswith("{"):
            self.registers.write(target, self.registers.packed(sources[0], op[-1]), lanes)
            return
        kinds = operand_types(op, len(sources))
        found = compute(
            op, [self.registers.read(s, k) for s, k in zip(sources, kinds, strict=True)]
        )
        if found is None:
            raise PtxError(f"unknown instruction {instruction.name}")
        self.registers.write(target, np.asarray(found).astype(TYPES[result_type(op)]), lanes)


_INSTRUCTIONS: dict[str, Callable[[WarpState, Instruction, Lanes], None]] = {
    "ld": load,
    "st": store,
    "atom": atomic_add,
    "shfl": shuffle,
    "redux": reduce,
    "vote": ballot,
    "elect": elect,
    "bar": barrier,
    "barrier": barrier,
    "mbarrier": memory_barrier,
    "cp": copy_bulk,
    "mapa": map_address,
}
_WITHOUT_EFFECT = {"setmaxnreg", "fence", "prefetch"}
