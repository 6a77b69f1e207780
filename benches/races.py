#!/usr/bin/env python3
"""Whether a kernel's threads can race, in every schedule of one launch, by a static proof on the PTX that NVRTC makes of it.

benches/races.py [KERNEL...]      needs tests/setup.sh and SentryWard (`pip install sentryward==0.1.1`), on PATH or in SENTRYWARD

One line a kernel: the verdict, which is `race_free` where it was proved, else what was and why not the rest; with `--markdown` the table of docs/races.md. LIMIT
sets the seconds that a proof may take (300). A launch has two blocks or more where the kernel's blocks share an output, rows
that end within a vector, and a last block that is not full. Pointers are different objects of unknown address, except those
that are null.

What the prover does not know is put in other words first: `bfi` with constant positions becomes masks and shifts.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

from nvrtc import ptx

# Verdicts that are findings; others that are not `race_free` say that nothing was proved.
FAULTS = ("not_wellsynced", "potential_race", "invalid_lifecycle")

# Parameters are given by their number: u32, u64 and f32 by value, a field of a struct as (offset, type, value).
NULL = ("pointer", None)


def u32(**values):
    return {int(name[1:]): ("u32", value) for name, value in values.items()}


def u64(**values):
    return {int(name[1:]): ("u64", value) for name, value in values.items()}


def f32(**values):
    return {int(name[1:]): ("f32", value) for name, value in values.items()}


def words(*values):
    """A struct of 32-bit words."""
    return [(4 * i, "f32" if isinstance(value, float) else "u32", value) for i, value in enumerate(values)]


# Rows of 100 elements, 13 of them: not whole vectors, nor whole blocks.
ROWS, WIDTH = 13, 100
# A sequence of 128 tokens, one head of D elements: as `Attention` in attention.h.
def attention(dim, tokens=128):
    return words(1, tokens, 0, tokens, 1, 1, dim, dim, dim, dim**-0.5, 1.4426950408889634 * dim**-0.5)


# file, kernel, blocks, threads, bytes of dynamic shared memory, parameters that are no addresses
LAUNCHES = [
    ("swiglu.cu", "swiglu", (2, 1, 1), 256, 0, u64(p3=3000)),
    ("swiglu.cu", "swiglu_grad", (2, 1, 1), 256, 0, u64(p3=3000)),
    ("gelu.cu", "gelu", (2, 1, 1), 256, 0, u64(p2=3000)),
    ("gelu.cu", "gelu_grad", (2, 1, 1), 256, 0, u64(p2=3000)),
    ("norm.cu", "rms_norm", (2, 1, 1), 256, 0, u32(p4=ROWS, p5=WIDTH) | f32(p6=1e-6)),
    ("norm.cu", "rms_norm_grad", (2, 1, 1), 256, 0, u32(p5=ROWS, p6=WIDTH)),
    ("norm.cu", "rms_norm_grad_gain", (2, 1, 1), 64, 0, u32(p6=6, p7=300, p8=5)),
    ("norm.cu", "rms_norm_gain_partial", (1, 2, 1), 256, 0, u32(p4=ROWS, p5=WIDTH, p6=8)),
    ("norm.cu", "sum_columns", (1, 1, 1), 256, 0, u32(p2=3, p3=WIDTH, p4=1)),
    ("bias.cu", "add_bias", (ROWS, 1, 1), 256, 0, u32(p2=WIDTH)),
    ("bias.cu", "bias_grad_partial", (1, 2, 1), 256, 0, u32(p2=ROWS, p3=WIDTH, p4=8)),
    ("rope.cu", "rope", (6, 1, 1), 256, 0, {2: NULL} | u32(p3=2, p4=15, p5=3, p6=1) | f32(p7=1.0)),
    ("rope.cu", "rope_eights", (4, 1, 1), 256, 0, {2: NULL} | u32(p3=200, p4=2, p5=16, p6=100, p7=1) | f32(p8=1.0)),
    ("weights.cu", "dequantize_int4", (2, 1, 1), 256, 0, u32(p4=0, p5=0, p6=30, p7=WIDTH, p8=128, p9=5)),
    ("weights.cu", "dequantize_int8", (2, 1, 1), 256, 0, u32(p4=0, p5=0, p6=30, p7=WIDTH, p8=128, p9=5)),
    ("embedding.cu", "embedding_int4", (ROWS, 1, 1), 256, 0, u32(p5=50, p6=WIDTH, p7=128, p8=5)),
    ("embedding.cu", "embedding_grad", (ROWS, 1, 1), 256, 0, u32(p3=ROWS, p4=50, p5=WIDTH)),
    ("loss.cu", "cross_entropy", (2, 1, 1), 256, 0, u32(p3=300, p4=1) | f32(p5=0.5)),
    ("matmul.cu", "matmul", (1, 1, 1), 128, 0, u32(p3=20, p4=24, p5=20, p6=0, p7=0, p10=0) | f32(p8=1.0, p9=1.0)),
    ("padding.cu", "clear_padding", (1, 1, 1), 256, 0, u32(p1=ROWS, p2=WIDTH)),
    ("padding.cu", "close_rows", (6, 1, 1), 256, 0, u32(p2=ROWS, p3=101, p4=128, p5=1)),
    ("linear_small_batch.cu", "gemv_int4", (2, 1, 1), 256, 0, u32(p5=1, p6=WIDTH, p7=ROWS, p8=128, p9=5, p10=1)),
    ("linear_small_batch.cu", "small_batch_int4", (2, 1, 1), 256, 0, u32(p5=8, p6=WIDTH, p7=ROWS, p8=128, p9=5, p10=1)),
    ("linear_grad_int8.cu", "round_rows_int8", (2, 1, 1), 256, 0,
     u32(p3=ROWS, p4=WIDTH, p5=128, p6=128, p9=1, p10=2) | u64(p7=0, p8=1)),
    ("linear_grad_int8.cu", "round_columns_int8", (2, 2, 1), 128, 0,
     u32(p3=WIDTH, p4=70, p5=2, p6=0, p7=0, p8=WIDTH, p9=128, p10=128)),
    ("linear_grad_int8.cu", "round_columns_at_random_int8", (2, 2, 1), 128, 0,
     u32(p3=WIDTH, p4=70, p5=2, p6=0, p7=0, p8=WIDTH, p9=128, p10=128, p13=1, p14=2) | u64(p11=0, p12=1)),
    ("linear_grad_int8.cu", "round_weight_int8_int4", (2, 2, 1), 128, 0,
     u32(p5=128, p6=70, p7=2, p8=0, p9=0, p10=WIDTH, p11=128, p12=128, p13=5)),
    ("activation_pack.cu", "pack_rows", (2, 1, 1), 256, 0, u32(p3=ROWS, p4=WIDTH, p7=1, p8=2) | u64(p5=0, p6=1)),
    ("activation_pack.cu", "unpack_rows", (2, 1, 1), 256, 0, u32(p3=ROWS, p4=WIDTH)),
    ("activation_scaling.cu", "scale_rows", (2, 1, 1), 256, 0, u32(p2=0, p3=ROWS, p4=WIDTH) | f32(p5=2.0)),
    ("activation_scaling.cu", "scale_grad_rows", (2, 1, 1), 256, 0, u32(p3=ROWS, p4=WIDTH) | f32(p5=2.0)),
    ("activation_scaling.cu", "sum_groups", (2, 1, 1), 256, 0, u32(p2=ROWS, p3=WIDTH, p4=4)),
    ("activation_scaling.cu", "sum_groups_grad", (2, 1, 1), 256, 0, u32(p2=ROWS, p3=WIDTH, p4=4, p5=0)),
    ("scaling.cu", "scale_elements", (2, 1, 1), 256, 0, u64(p1=300) | f32(p2=2.0) | u32(p3=0)),
    ("scaling.cu", "square_sums", (2, 1, 1), 256, 0, u64(p1=5000)),
    ("scaling.cu", "divide_elements", (2, 1, 1), 256, 0, u64(p1=300) | u32(p3=0)),
    ("sums.cu", "add_received", (2, 1, 1), 256, 0, u64(p2=300)),
    ("sums.cu", "add_received_bf16", (2, 1, 1), 256, 0, u64(p2=300)),
    ("sums.cu", "round_sums", (2, 1, 1), 256, 0, u64(p2=300)),
    ("factors.cu", "squares_of_rows", (2, 1, 1), 256, 0, u32(p1=ROWS, p2=WIDTH)),
    ("factors.cu", "scale_by_rows", (1, 6, 1), 256, 0, u32(p1=ROWS, p2=WIDTH)),
    ("factors.cu", "scale_by_cols", (1, 6, 1), 256, 0, u32(p1=ROWS, p2=WIDTH)),
    ("factors.cu", "sums_of_blocks", (1, 1, 1), 256, 0, u32(p1=3, p2=WIDTH)),
    ("factors.cu", "sums_of_runs", (2, 1, 1), 256, 0, u32(p1=1250, p2=WIDTH, p3=ROWS)),
    ("factors.cu", "ratio_of_roots", (2, 1, 1), 256, 0, u32(p2=300) | f32(p3=1e-6)),
    ("factors.cu", "divide_by_mean", (2, 1, 1), 256, 0, u32(p1=300, p3=64) | f32(p4=1e-6)),
    ("gaussian.cu", "gaussian", (2, 1, 1), 256, 0, u64(p1=1500, p2=1) | u32(p3=1, p4=2, p5=3) | f32(p6=1.0)),
    ("adam_statistics.cu", "optimizer_touched_rows", (2, 1, 1), 256, 0, u32(p1=ROWS, p2=WIDTH)),
    ("normalize.cu", "normalize_rows", (2, 1, 1), 256, 0, u32(p1=ROWS, p2=WIDTH) | f32(p3=1e-6)),
    ("normalize.cu", "normalize_col_sums", (1, 2, 1), 256, 0, u32(p1=ROWS, p2=WIDTH)),
    ("magnitude.cu", "row_norms", (2, 1, 1), 256, 0, u32(p4=ROWS, p5=WIDTH) | f32(p6=1.0)),
    ("magnitude.cu", "magnitude_grad_partial", (1, 2, 1), 256, 0, u32(p4=ROWS, p5=WIDTH, p6=8)),
    ("magnitude.cu", "add_columns", (ROWS, 1, 1), 256, 0, u32(p4=WIDTH) | f32(p5=1.0, p6=1.0)),
    ("attention.cu", "attention_64", (1, 1, 1), 128, 49152, {5: NULL, 6: attention(64)}),
    ("attention_grad.cu", "attention_grad_keys_64", (1, 1, 1), 128, 65536, {7: NULL, 8: attention(64)}),
]


def one_kernel(assembly, name):
    """The assembly with this kernel alone, in words that the prover knows."""
    begin = assembly.index(".visible .entry")
    entry = re.search(r"\.visible \.entry " + name + r"\(.*?\n}\n", assembly, re.S).group(0)
    return assembly[:begin] + re.sub(r"\tbfi\.b32 ([^;]*);", insertion, entry)


def insertion(match):
    """`bfi d, a, b, position, length`: the low bits of a at that position of b."""
    to, bits, base, position, length = (operand.strip() for operand in match.group(1).split(","))
    mask = (1 << int(length)) - 1
    kept = ~(mask << int(position)) & 0xFFFFFFFF
    return (
        "{ .reg .b32 inserted, kept;\n"
        f"\tand.b32 inserted, {bits}, {mask};\n\tshl.b32 inserted, inserted, {position};\n"
        f"\tand.b32 kept, {base}, {kept};\n\tor.b32 {to}, inserted, kept; }}"
    )


def configuration(assembly, launch):
    """What the prover is given: parameters that have no value are addresses of objects of their own."""
    _, _, blocks, threads, shared, parameters = launch
    kinds = re.findall(r"\.param (?:\.align \d+ )?\.(\w+) \w+_param_\d+", assembly)
    free = [number for number, kind in enumerate(kinds) if kind == "u64" and number not in parameters]
    declarations = [
        {"parameter": number, "type": "pointer", "space": "global", "object": f"object{number}"} for number in free
    ]
    arguments = []
    for number, value in sorted(parameters.items()):
        if isinstance(value, list):
            for offset, kind, field in value:
                arguments.append({"parameter": number, "offset": offset, "type": kind, "value": field})
        else:
            arguments.append({"parameter": number, "type": value[0], "value": value[1]})
    return {
        "schema": "spverify.kernel-input/v1",
        "launch": {"grid_dim": list(blocks), "block_dim": [threads, 1, 1], "dynamic_shared_bytes": shared},
        "arguments": arguments,
        "declarations": declarations,
    }


def prove(prover, limit, launch):
    """The prover's verdict, what of it was proved and why not the rest, and the seconds."""
    file, name = launch[:2]
    assembly = one_kernel(ptx(file, "compute_90a"), name)
    with tempfile.TemporaryDirectory() as folder:
        kernel, given = os.path.join(folder, "kernel.ptx"), os.path.join(folder, "input.json")
        with open(kernel, "w") as to:
            to.write(assembly)
        with open(given, "w") as to:
            json.dump(configuration(assembly, launch), to)
        begun = time.monotonic()
        done = subprocess.run(
            [prover, kernel, "--input", given, "--timeout", str(limit)], capture_output=True, text=True, check=False
        )
    seconds = time.monotonic() - begun
    try:
        report = json.loads(done.stdout)
    except ValueError:
        return f"exit status {done.returncode}", (done.stdout + done.stderr).strip()[-200:], seconds
    verdict, passed = report["result"], report["checks"]["synchronization"] == "passed"
    reasons = list(dict.fromkeys(note.get("message", "") for note in report.get("diagnostics", [])))
    if passed and verdict != "race_free":
        reasons.insert(0, "synchronization passed")
    return verdict, "; ".join(reasons)[:160], seconds


def main():
    names = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    markdown = "--markdown" in sys.argv[1:]
    unknown = set(names) - {launch[1] for launch in LAUNCHES}
    if unknown:
        sys.exit(f"no launch is known of {', '.join(sorted(unknown))}")
    prover = shutil.which(os.environ.get("SENTRYWARD", "sentryward"))
    if prover is None:
        sys.exit("sentryward is not on PATH: pip install sentryward==0.1.1, and name it in SENTRYWARD")
    limit = float(os.environ.get("LIMIT", "300"))
    races = []
    for launch in LAUNCHES:
        if names and launch[1] not in names:
            continue
        verdict, reasons, seconds = prove(prover, limit, launch)
        blocks = " x ".join(map(str, launch[2])).removesuffix(" x 1").removesuffix(" x 1")
        if markdown:
            print(f"| `{launch[1]}` | {blocks} of {launch[3]} | {verdict} | {reasons} |", flush=True)
        else:
            print(f"{launch[1]:28} {verdict} {reasons} ({seconds:.0f} s)", flush=True)
        if verdict in FAULTS:
            races.append(launch[1])
    if races:
        sys.exit(f"not free of races, or not well synchronized: {', '.join(races)}")


if __name__ == "__main__":
    main()
