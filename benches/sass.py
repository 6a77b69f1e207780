#!/usr/bin/env python3
"""Instructions of a kernel, as the machine code of a GPU has them, without a GPU: by kind, whole and in each loop.

benches/sass.py FILE.cu [KERNEL...]          needs tests/setup.sh, and nvdisasm on PATH or in NVDISASM
                                             (`pip install nvidia-cuda-nvdisasm`)

ARCH names another architecture than sm_90a. What a loop's instructions cost depends on how often it runs; kernels without loops
can be compared as they are. The kinds: LDG and STG are global memory with the bytes of a thread, MUFU approximations, HMMA
tensor cores, LDS, STS and LDSM shared memory; the rest is arithmetic and control.
"""
import collections
import os
import re
import shutil
import subprocess
import sys
import tempfile

from nvrtc import cubin


def kernels(code):
    """The instructions of each kernel, and its loops as ranges of them."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        program = shutil.which(os.environ.get("NVDISASM", "nvdisasm"))
        if program is None:
            sys.exit("nvdisasm is not on PATH: pip install nvidia-cuda-nvdisasm, and name it in NVDISASM")
        command = [program, "-c", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name, body in re.findall(r"^\.text\.(\S+):\n(.*?)(?=^\.text\.|\Z)", text, re.S | re.M):
        instructions, labels = [], {}
        for line in body.splitlines():
            if label := re.match(r"\s*(\.L_x_\d+):", line):
                labels[label[1]] = len(instructions)
            elif found := re.match(r"\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*?);", line):
                instructions.append((found[1], found[2]))
        # Behind the end the code is padded, and its last branch waits for ever.
        ends = [i for i, (kind, _) in enumerate(instructions) if kind.startswith("EXIT")]
        back = lambda i: re.search(r"\((\.L_x_\d+)\)", instructions[i][1])
        branches = [(labels.get(back(i)[1], i), i) for i in range(ends[-1]) if instructions[i][0] == "BRA" and back(i)]
        yield name, instructions[: ends[-1] + 1], sorted({(first, last) for first, last in branches if first < last})


def kind(instruction):
    name, *rest = instruction.split(".")
    if name in ("LDG", "STG", "LDGSTS"):
        bits = next((part for part in rest if part in ("128", "64", "U16", "U8", "S8")), "32")
        return f"{name} {int(bits.strip('US')) // 8}"
    return name if name in ("MUFU", "HMMA", "LDS", "STS", "LDSM", "SHFL", "BAR", "CALL") else "other"


def counts(instructions):
    counted = collections.Counter(kind(name) for name, _ in instructions)
    kinds = ", ".join(f"{count} {name}" for name, count in sorted(counted.items()))
    return f"{len(instructions)} instructions: {kinds}"


def main():
    asked = sys.argv[2:]
    for name, instructions, loops in kernels(cubin(sys.argv[1], os.environ.get("ARCH", "sm_90a"))):
        if not asked or name in asked:
            print(f"{name}: {counts(instructions)}")
            for first, last in loops:
                print(f"  loop {first} to {last}: {counts(instructions[first:last + 1])}")


main()
