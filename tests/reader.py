"""Reads a .tetrad file, from format-spec/SPEC.md alone and with nothing but the standard library.

usage: reader.py FILE...   prints one JSON object per file, or {"error": ...}. Checksums are not verified.
"""

import json, math, re, struct, sys

STORAGES = dict(enumerate(["f32", "f16", "bf16", "int8", "int4", "int4-asymmetric", "fp4"], 1))
ELEMENTS = dict(enumerate(["f32", "f16", "bf16", "i8", "u8", "nibble", "e8m0"], 1))
KINDS = {0x01: "data", 0x02: "codes", 0x03: "bytes", 0x04: "scales", 0x05: "offsets", 0x81: "residue", 0x82: "m",
         0x83: "m-scales", 0x84: "v", 0x85: "v-scales", 0x86: "v-rows", 0x87: "v-cols", 0x88: "scalars"}
NAME = re.compile(rb"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


def need(truth, rule):
    if not truth:
        raise ValueError(rule)


def align(at, to):
    return -(-at // to) * to


def take_name(data, at, end):
    need(at + 2 <= end, "R15")
    (size,) = struct.unpack_from("<H", data, at)
    name = data[at + 2:at + 2 + size]
    need(at + 2 + size <= end, "R15")
    need(1 <= size <= 255 and NAME.fullmatch(name), "R16")
    return name.decode(), at + 2 + size


def elements(kind, data):
    """The stored numbers, nibbles in the order of their elements."""
    if kind == "nibble":
        runs = [data[i:i + 16] for i in range(0, len(data), 16)]
        return [x for run in runs for x in [b & 15 for b in run] + [b >> 4 for b in run]]
    if kind == "bf16":
        kind, data = "f32", b"".join(b"\0\0" + data[i:i + 2] for i in range(0, len(data), 2))
    stored = struct.iter_unpack({"f32": "<f", "f16": "<e", "i8": "<b", "u8": "<B", "e8m0": "<B"}[kind], data)
    return [2.0 ** (x - 127) if kind == "e8m0" else x for (x,) in stored]


def unpadded(cols, group, values, value):
    """value(stored, group) of every element that is not padding."""
    f32, per_row = struct.Struct("<f"), -(-cols // group)
    at = [(i, j) for i in range(len(values) // (per_row * group)) for j in range(cols)]
    numbers = (value(values[i * per_row * group + j], i * per_row + j // group) for i, j in at)
    return [f32.unpack(f32.pack(x))[0] for x in numbers]


def decode(tensor):
    """The tensor's values by role and by names of state."""
    planes, out, cols, group = tensor["planes"], {}, tensor["shape"][-1], tensor["group"]
    s, fp4, low = planes.get("scales", []), tensor["storage"] == "fp4", 8 * (tensor["storage"] == "int4")
    o = planes.get("offsets", [0] * len(s))
    step = lambda q: q - low if not fp4 else q if q < 8 else 8 - q
    level = lambda p: math.copysign(max(abs(p) / 2, abs(p) - 2, 2 * abs(p) - 8), p) if fp4 else p
    own = {"int8": "bytes", "int4": "codes", "int4-asymmetric": "codes", "fp4": "codes"}.get(tensor["storage"], "data")
    need(own in planes and (own == "data" or s) and ("asym" not in tensor["storage"] or "offsets" in planes), "R25")
    out["weight"] = planes[own] if own == "data" else unpadded(
        cols, group, planes[own], lambda q, g: s[g] * level(step(q)) + o[g])
    if "residue" in planes:
        trained = [step(q) + (r - 8) / 16 for q, r in zip(planes["codes"], planes["residue"])]
        out["trained"] = unpadded(cols, group, trained, lambda p, g: s[g] * level(p) + o[g])
    states = {"m": (cols, group, 8 * (tensor["elements"].get("m") == "nibble"), 1), "v": (cols, group, 0, 2)}
    for e in tensor.pop("state"):
        zero, power = 8 * (e["codec"] == "int4"), 1 + ("root" in e["codec"])
        states[e["name"]] = (e.get("dims", [cols])[-1], e.get("group"), zero, power)
    for name in states.keys() & planes.keys():
        (width, group, zero, power), scales = states[name], planes.get(name + "-scales")
        out[name] = planes[name] if scales is None else unpadded(
            width, group, planes[name], lambda c, g: (scales[g] * (c - zero)) ** power)
    return out


def read(data):
    need(len(data) >= 128, "R1")
    need(data[:8] == b"\x89TETRAD\n", "R2")
    major, minor, required = struct.unpack_from("<HHI", data, 8)
    need(major == 1, "R3")
    need(required < 2, "R4")
    need(data[88:128] == bytes(40), "R5")
    file_len, head_len, weights_offset, optimizer_offset = struct.unpack_from("<4Q", data, 24)
    need(file_len == len(data), "R6")
    tensor_count, plane_count, attachment_count, names_len, metadata_len, attachments_len = struct.unpack_from(
        "<4I2Q", data, 56)
    need(1 <= tensor_count <= 65536 and 1 <= plane_count <= 1048576 and attachment_count <= 64, "R7")
    names_at = 128 + 40 * tensor_count + 32 * plane_count
    metadata_at = names_at + names_len
    attachments_at = metadata_at + metadata_len
    need(head_len == attachments_at + attachments_len <= file_len, "R8")
    need(weights_offset == align(head_len, 4096), "R10")
    metadata = json.loads(data[metadata_at:attachments_at].decode("utf-8"))
    state = metadata.pop("state", {}) if minor else {}

    tensors, at = [], names_at
    for t in range(tensor_count):
        storage, count, reserved, group, *dims = struct.unpack_from("<BBHI4Q", data, 128 + 40 * t)
        need(storage in STORAGES and (required or storage < 7), "R11")
        need(reserved == 0, "R5")
        need(1 <= count <= 4 and all(dims[:count]) and not any(dims[count:]), "R12")
        need(count == 2 or not (group or storage >= 4), "R12")
        need(group in ((32,) if storage == 7 else (32, 64, 128, 256)) or (group == 0 and storage < 4), "R14")
        need(math.prod(dims[:count - 1]) * align(dims[count - 1], group or 1) <= 1 << 48, "R13")
        name, at = take_name(data, at, metadata_at)
        tensors.append({"name": name, "shape": dims[:count], "storage": STORAGES[storage], "group": group,
                        "planes": {}, "elements": {}, "state": state.get(name, [])})
    need(at == metadata_at, "R15")
    need(len({t["name"] for t in tensors}) == tensor_count, "R17")

    end, start, last = head_len, weights_offset, (0, 0, 0)
    for p in range(plane_count):
        record = names_at - 32 * (plane_count - p)
        tensor, kind, element, flags, reserved, offset, size, _ = struct.unpack_from("<IBBBBQQQ", data, record)
        named, known = minor and 0x90 <= kind <= 0xaf, KINDS.get(kind)
        need(flags in (0, 1) and not (flags and known) and (flags or not named), "R19")
        need(flags or known, "R20")
        need(reserved == 0 and tensor < tensor_count, "R5" if reserved else "R18")
        if named:
            need(kind & 15 < len(tensors[tensor]["state"]), "R44")
            known = tensors[tensor]["state"][kind & 15]["name"] + "-scales" * (kind >= 0xa0)
        need((kind >> 7, tensor, kind) > last, "R21")
        if kind >> 7 and not last[0]:
            start = optimizer_offset
            need(start == align(end, 4096), "R26")
        need(offset == start and offset + size <= file_len, "R24")
        last, end, start = (kind >> 7, tensor, kind), offset + size, align(offset + size, 64)
        if known:
            need(element in ELEMENTS, "R22")
            tensors[tensor]["planes"][known] = elements(ELEMENTS[element], data[offset:end])
            tensors[tensor]["elements"][known] = ELEMENTS[element]
    need(end == file_len and (last[0] or optimizer_offset == 0), "R26")

    attachments, at = {}, attachments_at
    for _ in range(attachment_count):
        name, at = take_name(data, at, head_len)
        (size,) = struct.unpack_from("<Q", data, at)
        need(at + 8 + size <= head_len, "R32")
        attachments[name], at = data[at + 8:at + 8 + size].decode("latin-1"), at + 8 + size
    return {"minor": minor, "metadata": metadata, "attachments": attachments,
            "tensors": [{"values": decode(t), **t} for t in tensors]}


for path in sys.argv[1:]:
    try:
        with open(path, "rb") as file:
            print(json.dumps(read(file.read())))
    except (ValueError, KeyError, struct.error) as error:
        print(json.dumps({"error": repr(error)}))
