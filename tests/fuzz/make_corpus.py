"""Makes the small valid files that fuzzing begins with. Needs numpy, gguf and safetensors."""

import pathlib
import shutil

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import quantize
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent
values = np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32)

for kind in ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]:
    writer = gguf.GGUFWriter(HERE / f"corpus/gguf/{kind.lower()}.gguf", "llama")
    writer.add_context_length(64)
    writer.add_rope_freq_base(1e4)
    writer.add_token_list(["a", "b"])
    writer.add_token_types([1, 3])
    data = values.astype(np.float16) if kind == "F16" else values if kind == "F32" else quantize(values, Type[kind])
    writer.add_tensor("a", data, raw_dtype=Type[kind])
    writer.add_tensor("b", values[0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
save_file({"a": values, "b.c": values[0].astype(np.float16)}, HERE / "corpus/safetensors/two.safetensors", {"k": "v"})
save_file({"a": values}, HERE / "corpus/safetensors/one.safetensors")
for name in ["f32", "int4", "int4-asymmetric", "int8", "state-int4", "state-factored", "state-named", "state-fp4"]:
    shutil.copy(HERE / f"../../fixtures/format/good/{name}.tetrad", HERE / "corpus/tetrad")
