"""PTX text to instructions, with the point at which diverged lanes meet again."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace


class PtxError(Exception):
    """The text is not PTX that this emulator knows."""


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Args:
        op: its name's parts, as ("add", "s32").
        operands: as written; brackets and braces kept.
        guard: predicate register that must hold, or None.
        negated: it must not hold.
    """

    op: tuple[str, ...]
    operands: tuple[str, ...]
    guard: str | None = None
    negated: bool = False

    @property
    def name(self) -> str:
        """The whole name."""
        return ".".join(self.op)


@dataclass(frozen=True)
class Program:
    """A kernel's instructions.

    Args:
        parameters: size in bytes of each, by name, in order.
        labels: index of the instruction after each.
        meets: for each instruction, where the paths of a branch there meet again.
        block_threads: threads of a block.
    """

    name: str
    parameters: dict[str, int]
    instructions: list[Instruction]
    labels: dict[str, int]
    meets: list[int]
    block_threads: int


@dataclass
class _Scope:
    """Registers and labels of inline assembly are its own."""

    number: int
    names: set[str] = field(default_factory=set)


_ENTRY = re.compile(r"\.entry\s+(\S+?)\s*\((.*?)\)(.*?)\{(.*)\}", re.S)
_PARAMETER = re.compile(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+(\w+)(?:\[(\d+)\])?")
_GUARD = re.compile(r"@(!?)(%?\w+)\s+")
_SIZES = {"u32": 4, "s32": 4, "b32": 4, "f32": 4, "u64": 8, "b64": 8, "s64": 8}


def parse(text: str) -> Program:
    """The only kernel of a PTX module."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    text = re.sub(r"//[^\n]*|^\s*\.loc\b[^\n]*", "", text, flags=re.M)
    entry = _ENTRY.search(text)
    if entry is None:
        raise PtxError("no .entry in this text")
    name, parameters, directives, body = entry.groups()
    threads = re.search(r"\.reqntid\s+(\d+)", directives)
    if threads is None:
        raise PtxError(f"{name}: without .reqntid the size of a block is unknown")
    sizes = {}
    for kind, parameter, count in _PARAMETER.findall(parameters):
        sizes[parameter] = int(count) if count else _SIZES[kind]
    instructions, labels = _instructions(body)
    return Program(
        name=name,
        parameters=sizes,
        instructions=instructions,
        labels=labels,
        meets=_meeting_points(instructions, labels),
        block_threads=int(threads.group(1)),
    )


def _instructions(body: str) -> tuple[list[Instruction], dict[str, int]]:
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    scopes: list[_Scope] = []
    opened = 0

    def own(token: str) -> str:
        for scope in reversed(scopes):
            if token in scope.names:
                return f"{token}#{scope.number}"
        return token

    for statement in _statements(body):
        if statement == "{":
            opened += 1
            scopes.append(_Scope(opened))
        elif statement == "}":
            scopes.pop()
        elif statement.startswith(".reg"):
            if scopes:
                scopes[-1].names |= set(re.split(r"[\s,]+", statement.split(None, 2)[2]))
        elif statement.startswith("."):
            continue
        elif statement.endswith(":"):
            label = statement[:-1]
            if scopes:
                scopes[-1].names.add(label)
            labels[own(label)] = len(instructions)
        else:
            guard, negated = None, False
            match = _GUARD.match(statement)
            if match:
                negated, guard = match.group(1) == "!", own(match.group(2))
                statement = statement[match.end() :]
            op, _, rest = statement.partition(" ")
            operands = tuple(own(x) for x in _split(rest))
            instructions.append(Instruction(tuple(op.split(".")), operands, guard, negated))
    # A label of inline assembly may be used before its place.
    known = {label.partition("#")[0] for label in labels if "#" in label}
    resolved = []
    for index, instruction in enumerate(instructions):
        if instruction.op[0] == "bra" and instruction.operands[0] in known:
            ahead = [
                (place, label)
                for label, place in labels.items()
                if label.partition("#")[0] == instruction.operands[0] and place > index
            ]
            instruction = replace(instruction, operands=(min(ahead)[1],))
        resolved.append(instruction)
    return resolved, labels


def _statements(body: str) -> list[str]:
    """Statements, labels and the braces of blocks; an operand's braces stay inside."""
    found = []
    current = ""
    depth = 0
    for character in re.sub(r"\s+", " ", body):
        if character == ";":
            found.append(current.strip())
            current = ""
        elif character == ":" and re.fullmatch(r"[\w$]+", current.strip()):
            found.append(current.strip() + ":")
            current = ""
        elif character in "{}" and not current.strip() and depth == 0:
            found.append(character)
            current = ""
        else:
            depth += (character == "{") - (character == "}")
            current += character
    return [x for x in found if x]


def _split(operands: str) -> list[str]:
    parts, depth, current = [], 0, ""
    for character in operands:
        depth += (character in "{[") - (character in "}]")
        if character == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += character
    if current.strip():
        parts.append(current.strip())
    return parts


def _meeting_points(instructions: list[Instruction], labels: dict[str, int]) -> list[int]:
    """Immediate post-dominators (of instructions; the end is one past the last)."""
    end = len(instructions)
    following: list[list[int]] = []
    for index, instruction in enumerate(instructions):
        if instruction.op[0] == "ret":
            following.append([end] if instruction.guard is None else [end, index + 1])
        elif instruction.op[0] == "bra":
            target = labels[instruction.operands[0]]
            following.append([target] if instruction.guard is None else [target, index + 1])
        else:
            following.append([index + 1])
    # Cooper, Harvey, Kennedy, "A simple, fast dominance algorithm", on the reversed graph.
    order = _postorder_from_end(following, end)
    rank = {node: place for place, node in enumerate(order)}
    meets: list[int | None] = [None] * (end + 1)
    meets[end] = end
    changed = True
    while changed:
        changed = False
        for node in reversed(order[:-1]):
            known = [x for x in following[node] if meets[x] is not None]
            if not known:
                continue
            new = known[0]
            for other in known[1:]:
                a, b = new, other
                while a != b:
                    while rank[a] < rank[b]:
                        a = _is(meets[a])
                    while rank[b] < rank[a]:
                        b = _is(meets[b])
                new = a
            if meets[node] != new:
                meets[node] = new
                changed = True
    return [end if x is None else x for x in meets]


def _is(node: int | None) -> int:
    if node is None:
        raise PtxError("a branch that cannot reach the end")
    return node


def _postorder_from_end(following: list[list[int]], end: int) -> list[int]:
    before: list[list[int]] = [[] for _ in range(end + 1)]
    for node, nexts in enumerate(following):
        for x in nexts:
            before[x].append(node)
    order: list[int] = []
    seen = {end}
    stack = [(end, iter(before[end]))]
    while stack:
        node, rest = stack[-1]
        child = next((x for x in rest if x not in seen), None)
        if child is None:
            order.append(node)
            stack.pop()
        else:
            seen.add(child)
            stack.append((child, iter(before[child])))
    return order
