"""llama.cpp by its C interface, from the library inside the `xllamacpp` wheel, or from the folder of libraries that LLAMA_CPP
names, such as `bins/linux-x64` of the npm package `@node-llama-cpp/linux-x64`, which chooses one for the processor.

Parameter structures are opaque here: their defaults come from the library itself, and only the leading fields, whose
place has been the same for years and whose default values are checked, are changed.
"""

import ctypes as c
import importlib.util
import os
import pathlib
import time

import numpy as np


class Blob(c.Structure):
    """A structure passed by value whose tail is not named; larger than the real one, which then reads its own part."""
    _fields_ = [("words", c.c_uint32 * 128)]


class Batch(c.Structure):
    _fields_ = [("n_tokens", c.c_int32), ("token", c.POINTER(c.c_int32)), ("embd", c.c_void_p),
                ("pos", c.POINTER(c.c_int32)), ("n_seq_id", c.POINTER(c.c_int32)),
                ("seq_id", c.POINTER(c.POINTER(c.c_int32))), ("logits", c.POINTER(c.c_int8))]


def opened():
    """The library, opened; with the part of it for this processor."""
    if named := os.environ.get("LLAMA_CPP"):
        folder = pathlib.Path(named)
        base, ggml, lib = (c.CDLL(str(next(folder.glob(f"lib{part}.*so*"))), mode=c.RTLD_GLOBAL)
                           for part in ("ggml-base", "ggml", "llama"))
        ggml.ggml_backend_load_all_from_path.argtypes = [c.c_char_p]
        ggml.ggml_backend_load_all_from_path(str(folder).encode())
        return lib
    folder = pathlib.Path(importlib.util.find_spec("xllamacpp").origin).parent
    return c.CDLL(str(next(folder.glob("xllamacpp*.so"))))


def library():
    lib = opened()
    for name, result, arguments in [
        ("llama_model_default_params", Blob, []),
        ("llama_context_default_params", Blob, []),
        ("llama_model_load_from_file", c.c_void_p, [c.c_char_p, Blob]),
        ("llama_init_from_model", c.c_void_p, [c.c_void_p, Blob]),
        ("llama_model_get_vocab", c.c_void_p, [c.c_void_p]),
        ("llama_vocab_n_tokens", c.c_int32, [c.c_void_p]),
        ("llama_tokenize", c.c_int32,
         [c.c_void_p, c.c_char_p, c.c_int32, c.POINTER(c.c_int32), c.c_int32, c.c_bool, c.c_bool]),
        ("llama_batch_init", Batch, [c.c_int32, c.c_int32, c.c_int32]),
        ("llama_decode", c.c_int32, [c.c_void_p, Batch]),
        ("llama_get_logits_ith", c.POINTER(c.c_float), [c.c_void_p, c.c_int32]),
        ("llama_get_memory", c.c_void_p, [c.c_void_p]),
        ("llama_memory_clear", None, [c.c_void_p, c.c_bool]),
        ("llama_log_set", None, [c.c_void_p, c.c_void_p]),
    ]:
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


class Llama:
    """A model in llama.cpp; `exact` computes attention in 32 bits throughout, not in 16."""

    def __init__(self, path, tokens=512, threads=2, quiet=True, exact=False):
        self.lib = lib = library()
        if quiet:
            self.silence = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)(lambda level, text, data: None)
            lib.llama_log_set(c.cast(self.silence, c.c_void_p), None)
        self.model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"{path}: llama.cpp does not load it")
        params = lib.llama_context_default_params()
        # n_ctx, n_batch, n_ubatch, n_seq_max; the threads stand a little further on.
        assert list(params.words[:4]) == [512, 2048, 512, 1], list(params.words[:12])
        params.words[0] = params.words[1] = params.words[2] = tokens
        at = next(i for i in range(4, 8) if params.words[i] == params.words[i + 1] == 4)
        params.words[at] = params.words[at + 1] = threads
        if exact:
            # type_k and type_v, F16, stand behind the two words of a pointer that is null.
            at = next(i for i in range(16, 32) if list(params.words[i - 2:i + 4]) == [0, 0, 1, 1, 0, 0])
            params.words[at] = params.words[at + 1] = 0
            # Scaling, pooling, attention and flash attention: each -1, which leaves it to the library.
            at = next(i for i in range(8, 16) if list(params.words[i:i + 5]) == [2**32 - 1] * 4 + [0])
            params.words[at + 3] = 0
        self.context = lib.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit(f"{path}: llama.cpp makes no context of {tokens} tokens")
        self.vocab = lib.llama_model_get_vocab(self.model)
        self.size = lib.llama_vocab_n_tokens(self.vocab)
        self.batch = lib.llama_batch_init(tokens, 0, 1)
        self.seconds = 0.0

    def tokenize(self, text):
        data = text.encode()
        ids = (c.c_int32 * (len(data) + 8))()
        count = self.lib.llama_tokenize(self.vocab, data, len(data), ids, len(ids), False, True)
        assert count >= 0, count
        return list(ids[:count])

    def logits(self, tokens, start=0, every=True):
        """Logits after each of `tokens`, or after the last; `start` is the position of the first."""
        if start == 0:
            self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        batch, count = self.batch, len(tokens)
        batch.n_tokens = count
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, start + i, 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = every or i + 1 == count
        begun = time.perf_counter()
        assert self.lib.llama_decode(self.context, batch) == 0
        self.seconds += time.perf_counter() - begun
        rows = range(count) if every else [count - 1]
        return np.stack([np.ctypeslib.as_array(self.lib.llama_get_logits_ith(self.context, i), (self.size,)).copy()
                         for i in rows])

    def after(self, tokens, first):
        """Logits after each token from number `first` on, fed one by one as a text is that is being written."""
        rows = [self.logits(tokens[:first + 1], every=False)]
        rows += [self.logits([token], start=first + 1 + i) for i, token in enumerate(tokens[first + 1:])]
        return np.concatenate(rows)


def losses(logits, targets):
    """-log softmax(logits)[target] of each row, in float64."""
    logits = logits.astype(np.float64)
    most = logits.max(axis=1, keepdims=True)
    sums = np.log(np.exp(logits - most).sum(axis=1)) + most[:, 0]
    return sums - logits[np.arange(len(targets)), targets]
