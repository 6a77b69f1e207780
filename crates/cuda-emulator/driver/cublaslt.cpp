// libcublasLt: products of bf16 matrices with sums in float32.
#include <cstdlib>
#include <cstring>
#include <string>

#include "cublaslt_product.h"

#define API extern "C" __attribute__((visibility("default")))

typedef u32 Code;
enum : Code { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
enum : u32 { FLOAT = 0, BFLOAT = 14, SUM_IN_FLOAT = 68 };

// The emulated driver's.
struct Stream;
extern "C" Code cuda_emulator_enqueue(Stream* stream, Code (*function)(void*), void* data, void (*free)(void*));
extern "C" void cuda_emulator_count(const char* what);
extern "C" bool cuda_emulator_inside(const void* address, u64 bytes);
extern "C" u32 cuda_emulator_failed(u32 code, const char* what);

// Workspace of the only algorithm, if the limit allows it; it is overwritten.
constexpr u64 WORKSPACE = 1 << 20;

struct Handle {
    int unused;
};
struct Description {
    u32 compute, scale, transposed_a, transposed_b;
};
struct Layout {
    u32 type;
    u64 rows, columns;
    i64 stride;
    // Matrices of a batch, and elements from one to the next.
    int32_t count;
    i64 distance;
};
struct Preference {
    u64 workspace;
    // How the parts of a split sum meet: any way, or as the mask says.
    u32 reduction;
    u32 alignment[4];  // of a, b, c, d in bytes: what the algorithm may rely on
};
struct Algorithm {
    u64 data[8];
};
struct Heuristic {
    Algorithm algorithm;
    u64 workspace;
    u32 state;
    float waves;
    int reserved[4];
};

namespace {

const struct {
    Code code;
    const char* name;
} NAMES[] = {{SUCCESS, "CUBLAS_STATUS_SUCCESS"},
             {NOT_INITIALIZED, "CUBLAS_STATUS_NOT_INITIALIZED"},
             {INVALID_VALUE, "CUBLAS_STATUS_INVALID_VALUE"},
             {EXECUTION_FAILED, "CUBLAS_STATUS_EXECUTION_FAILED"},
             {NOT_SUPPORTED, "CUBLAS_STATUS_NOT_SUPPORTED"}};

// In the algorithm's first word; the workspace is in the second, then come the alignments of a, b, c, d.
constexpr u64 MARK = 0x656d756c61746564;

Code refuse(Code code, const std::string& what) {
    return cuda_emulator_failed(code, ("matrix product: " + what).c_str());
}

u64 bytes_of(const Layout& layout) {
    const u64 element = layout.type == FLOAT ? 4 : 2;
    const u64 before = u64(layout.count - 1) * u64(layout.distance);
    return (before + (layout.columns - 1) * u64(layout.stride) + layout.rows) * element;
}

// Rows and columns after the transposition.
u64 rows(const Layout& layout, u32 transposed) { return transposed != 0 ? layout.columns : layout.rows; }
u64 columns(const Layout& layout, u32 transposed) { return transposed != 0 ? layout.rows : layout.columns; }

Code check_shapes(const Description& how, const Layout& a, const Layout& b, const Layout& c, const Layout& d) {
    if (how.compute != SUM_IN_FLOAT || how.scale != FLOAT) return refuse(NOT_SUPPORTED, "only sums in float32");
    if (a.type != BFLOAT || b.type != BFLOAT) return refuse(NOT_SUPPORTED, "only bf16 operands");
    if (c.type != d.type || (d.type != BFLOAT && d.type != FLOAT))
        return refuse(NOT_SUPPORTED, "output is bf16 or float32");
    for (const Layout* layout : {&a, &b, &c, &d}) {
        if (layout->rows == 0 || layout->columns == 0) return refuse(INVALID_VALUE, "an empty matrix");
        if (layout->stride < i64(layout->rows)) return refuse(INVALID_VALUE, "a leading dimension below the rows");
        if (layout->count != d.count) return refuse(INVALID_VALUE, "batches of different lengths");
        if (layout->distance < 0) return refuse(NOT_SUPPORTED, "a batch that runs backwards");
    }
    if (d.count > 1 && d.distance == 0) return refuse(INVALID_VALUE, "all outputs of a batch in one place");
    const u64 m = rows(a, how.transposed_a), k = columns(a, how.transposed_a), n = columns(b, how.transposed_b);
    const bool fit = rows(b, how.transposed_b) == k && c.rows == m && c.columns == n && d.rows == m && d.columns == n;
    return fit ? SUCCESS : refuse(INVALID_VALUE, "shapes do not fit");
}

Code check_memory(const char* what, const void* at, const Layout& layout, u64 alignment) {
    const u64 distance = layout.count > 1 ? u64(layout.distance) * (layout.type == FLOAT ? 4 : 2) : 0;
    if ((u64(at) | distance) % alignment != 0) {
        const std::string promise = std::to_string(alignment) + " bytes, as the preference promised";
        return refuse(INVALID_VALUE, std::string(what) + " is not aligned to " + promise);
    }
    if (cuda_emulator_inside(at, bytes_of(layout))) return SUCCESS;
    return refuse(INVALID_VALUE, std::string(what) + " is not inside an allocation");
}

// Whether there is an algorithm. CUDA_EMULATOR_LT_KNOWS: "unmasked", only where split sums may meet in any way;
// "unaided", only without a workspace besides; "nothing".
bool is_known(const Preference& preference) {
    const char* knows = getenv("CUDA_EMULATOR_LT_KNOWS");
    const std::string only = knows != nullptr ? knows : "";
    if (only == "nothing") return false;
    if (only == "unmasked" || only == "unaided") {
        return preference.reduction == ~0u && (only == "unmasked" || preference.workspace == 0);
    }
    return true;
}

struct Work {
    Product product;
    void* workspace;
    u64 workspace_bytes;
};

}  // namespace

API u64 cublasLtGetVersion() { return 130000; }

API const char* cublasLtGetStatusName(Code code) {
    for (const auto& each : NAMES) {
        if (each.code == code) return each.name;
    }
    return "CUBLAS_STATUS unknown";
}

API const char* cublasLtGetStatusString(Code code) { return cublasLtGetStatusName(code); }

API Code cublasLtCreate(Handle** handle) {
    *handle = new Handle();
    return SUCCESS;
}
API Code cublasLtDestroy(Handle* handle) {
    delete handle;
    return SUCCESS;
}

API Code cublasLtMatmulDescCreate(Description** description, u32 compute, u32 scale) {
    *description = new Description{compute, scale, 0, 0};
    return SUCCESS;
}
API Code cublasLtMatmulDescDestroy(Description* description) {
    delete description;
    return SUCCESS;
}
API Code cublasLtMatmulDescSetAttribute(Description* description, u32 attribute, const void* value, size_t bytes) {
    u32 number = 0;
    if (bytes != sizeof number) return INVALID_VALUE;
    memcpy(&number, value, sizeof number);
    switch (attribute) {
        case 2: return number == 0 ? SUCCESS : refuse(NOT_SUPPORTED, "alpha and beta are on the host");
        case 3: description->transposed_a = number; return number <= 1 ? SUCCESS : NOT_SUPPORTED;
        case 4: description->transposed_b = number; return number <= 1 ? SUCCESS : NOT_SUPPORTED;
        case 7: return number == 1 ? SUCCESS : refuse(NOT_SUPPORTED, "no epilogue but the default");
        default: return refuse(NOT_SUPPORTED, "attribute " + std::to_string(attribute) + " of a description");
    }
}

API Code cublasLtMatrixLayoutCreate(Layout** layout, u32 type, u64 rows, u64 columns, i64 stride) {
    *layout = new Layout{type, rows, columns, stride, 1, 0};
    return SUCCESS;
}
API Code cublasLtMatrixLayoutSetAttribute(Layout* layout, u32 attribute, const void* value, size_t bytes) {
    if (attribute == 5) {
        if (bytes != sizeof layout->count) return INVALID_VALUE;
        memcpy(&layout->count, value, bytes);
        return layout->count > 0 ? SUCCESS : refuse(INVALID_VALUE, "an empty batch");
    }
    if (attribute == 6) {
        if (bytes != sizeof layout->distance) return INVALID_VALUE;
        memcpy(&layout->distance, value, bytes);
        return SUCCESS;
    }
    return refuse(NOT_SUPPORTED, "attribute " + std::to_string(attribute) + " of a layout");
}
API Code cublasLtMatrixLayoutDestroy(Layout* layout) {
    delete layout;
    return SUCCESS;
}

API Code cublasLtMatmulPreferenceCreate(Preference** preference) {
    // By default the real library relies on 256 bytes.
    *preference = new Preference{0, ~0u, {256, 256, 256, 256}};
    return SUCCESS;
}
API Code cublasLtMatmulPreferenceDestroy(Preference* preference) {
    delete preference;
    return SUCCESS;
}
API Code cublasLtMatmulPreferenceSetAttribute(Preference* preference, u32 attribute, const void* value, size_t bytes) {
    if (attribute == 1) {
        if (bytes != sizeof preference->workspace) return INVALID_VALUE;
        memcpy(&preference->workspace, value, bytes);
    } else if (attribute == 3) {
        if (bytes != sizeof preference->reduction) return INVALID_VALUE;
        memcpy(&preference->reduction, value, bytes);
    } else if (attribute >= 5 && attribute <= 8) {
        if (bytes != sizeof *preference->alignment) return INVALID_VALUE;
        memcpy(&preference->alignment[attribute - 5], value, bytes);
    }
    return SUCCESS;
}

API Code cublasLtMatmulAlgoGetHeuristic(Handle* handle, const Description* how, const Layout* a, const Layout* b,
                                        const Layout* c, const Layout* d, const Preference* preference, int wanted,
                                        Heuristic* results, int* found) {
    *found = 0;
    if (handle == nullptr || wanted < 1) return INVALID_VALUE;
    if (const Code code = check_shapes(*how, *a, *b, *c, *d)) return code;
    if (!is_known(*preference)) return NOT_SUPPORTED;
    const u64 workspace = preference->workspace < WORKSPACE ? 0 : WORKSPACE;
    const u32* alignment = preference->alignment;
    for (int i = 0; i < 4; i++) {
        if (alignment[i] == 0 || (alignment[i] & (alignment[i] - 1)) != 0)
            return refuse(INVALID_VALUE, "an alignment that is no power of two");
    }
    *results = Heuristic{
        {{MARK, workspace, alignment[0], alignment[1], alignment[2], alignment[3]}}, workspace, SUCCESS, 1, {}};
    *found = 1;
    return SUCCESS;
}

API Code cublasLtMatmul(Handle* handle, const Description* how, const void* alpha, const void* a, const Layout* at_a,
                        const void* b, const Layout* at_b, const void* beta, const void* c, const Layout* at_c, void* d,
                        const Layout* at_d, const Algorithm* algorithm, void* workspace, size_t workspace_bytes,
                        Stream* stream) {
    if (handle == nullptr || alpha == nullptr || beta == nullptr) return INVALID_VALUE;
    if (const Code code = check_shapes(*how, *at_a, *at_b, *at_c, *at_d)) return code;
    float factor, old;
    memcpy(&factor, alpha, sizeof factor);
    memcpy(&old, beta, sizeof old);
    // Without an algorithm the library looks at the addresses itself.
    const Algorithm unknown = {{MARK, 0, 2, 2, 2, 2}};
    const Algorithm& chosen = algorithm != nullptr ? *algorithm : unknown;
    if (chosen.data[0] != MARK) return refuse(INVALID_VALUE, "an algorithm that the heuristic did not give");
    const u64 needed = chosen.data[1];
    const u64* alignment = &chosen.data[2];
    if (const Code code = check_memory("a", a, *at_a, alignment[0])) return code;
    if (const Code code = check_memory("b", b, *at_b, alignment[1])) return code;
    if (const Code code = check_memory("d", d, *at_d, alignment[3])) return code;
    if (old != 0) {
        if (const Code code = check_memory("c", c, *at_c, alignment[2])) return code;
        // In place, or apart: tiles of the output are written while others still read what is added to them.
        const bool in_place = c == d && at_c->stride == at_d->stride && at_c->distance == at_d->distance;
        if (!in_place && u64(c) < u64(d) + bytes_of(*at_d) && u64(d) < u64(c) + bytes_of(*at_c))
            return refuse(INVALID_VALUE, "c and d overlap without being the same");
    }
    if (needed > workspace_bytes || (needed > 0 && !cuda_emulator_inside(workspace, workspace_bytes))) {
        return refuse(INVALID_VALUE, "the workspace is too small or not inside an allocation");
    }
    const Product product = {rows(*at_a, how->transposed_a),
                             columns(*at_b, how->transposed_b),
                             columns(*at_a, how->transposed_a),
                             static_cast<const bf16*>(a),
                             static_cast<const bf16*>(b),
                             u64(at_a->stride),
                             u64(at_b->stride),
                             how->transposed_a != 0,
                             how->transposed_b != 0,
                             c,
                             d,
                             u64(at_c->stride),
                             u64(at_d->stride),
                             at_c->type == BFLOAT,
                             at_d->type == BFLOAT,
                             factor,
                             old,
                             u64(at_d->count),
                             {u64(at_a->distance), u64(at_b->distance), u64(at_c->distance), u64(at_d->distance)}};
    const Code code = cuda_emulator_enqueue(
        stream,
        [](void* data) {
            const Work& work = *static_cast<Work*>(data);
            memset(work.workspace, 0xff, work.workspace_bytes);
            multiply(work.product);
            return Code(SUCCESS);
        },
        new Work{product, workspace, needed}, [](void* data) { delete static_cast<Work*>(data); });
    cuda_emulator_count("product");
    return code == SUCCESS ? SUCCESS : EXECUTION_FAILED;
}
