#!/usr/bin/env python3
"""Proves from the machine code what may be called with live vector registers: mem_fill() and
what changes the mode.

mem_fill_regs.py PROGRAM SOURCE...: no function that these reach in the program uses a vector
or x87 register, calls through a pointer, or comes from another file than these sources (or a header
of theirs): so neither the C library nor anything that allocates or logs is reached.
"""
import bisect
import re
import subprocess
import sys

FUNCTION = re.compile(r"^([0-9a-f]+) <([^>]+)>:$")
INSN = re.compile(r"^ *[0-9a-f]+:\t([a-z0-9]+(?: [a-z]\S*)?) *(.*)$")
TARGET = re.compile(r"^(?:0x)?([0-9a-f]+) <")
REGISTERS = re.compile(r"%([xyz]?mm\d|st\b|k\d)")


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Program:
    def __init__(self, path):
        self.path = path
        self.functions = {}  # address -> (name, [(mnemonic, operands)])
        body = None
        for line in output("objdump", "-d", "--no-show-raw-insn", path).splitlines():
            if m := FUNCTION.match(line):
                body = []
                self.functions[int(m[1], 16)] = (m[2], body)
            elif body is not None and (m := INSN.match(line)):
                body.append((m[1], m[2]))
        self.starts = sorted(self.functions)
        self.by_name = {name: at for at, (name, _) in self.functions.items()}

    def containing(self, address):
        return self.starts[bisect.bisect_right(self.starts, address) - 1]

    def callees(self, at):
        for mnemonic, operands in self.functions[at][1]:
            if m := TARGET.match(operands):
                if mnemonic.split()[-1].startswith(("call", "j")):
                    yield self.containing(int(m[1], 16))

    def reached(self, name):
        seen, todo = set(), [self.by_name[name]]
        while todo:
            at = todo.pop()
            if at not in seen:
                seen.add(at)
                todo.extend(self.callees(at))
        return seen

    def files(self, addresses):
        addresses = sorted(addresses)
        lines = output("addr2line", "-e", self.path, *map(hex, addresses)).splitlines()
        return dict(zip(addresses, (line.split(":")[0] for line in lines)))


def complaints(program, root, sources):
    """What is wrong with the functions that root reaches."""
    for at, path in program.files(program.reached(root)).items():
        name, body = program.functions[at]
        if not path.endswith((".h", *sources)):
            yield f"{name} of {path} is reached"
            continue
        for mnemonic, operands in body:
            if "*" in operands:
                yield f"{name}: {mnemonic} {operands}: through a pointer"
            if REGISTERS.search(operands) or mnemonic.startswith(("f", "v", "emms")):
                yield f"{name}: {mnemonic} {operands}"


def main():
    program = Program(sys.argv[1])
    sources = tuple("/" + s for s in sys.argv[2:])
    names = {program.functions[at][0] for at in program.reached("mem_fill")}
    bad = [line for root in ("mem_fill", "bt_syscall", "bt_sysret", "bt_iret", "bt_miss", "bt_find")
           for line in complaints(program, root, sources)]
    # The check itself: mem_fill() is followed, and what raises faults and logs does not pass, wherever
    # it comes from.
    for name in ("tlb2_revoke", "walk_quiet", "npt_lookup"):
        if name not in names:
            bad.append(f"{name} is not reached: can this be read?")
    if not any("%xmm" in line for line in complaints(program, "mem_read_slow", ("",))):
        bad.append("mem_read_slow passes, too")
    for line in bad:
        print("mem_fill_regs:", line)
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
