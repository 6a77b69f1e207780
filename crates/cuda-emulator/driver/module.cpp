// libcuda: modules, kernels, launches.
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "interpreter.h"
#include "stream.h"

namespace {

using emulator::Kernel;

// What the emulated NVRTC writes in place of machine code, before the name of the source.
const char MARK[] = "emulated cubin of ";
// The same before the number of an interpreted module.
const char INTERPRETED[] = "interpreted module ";

const char* without_folders(const char* path) {
    const char* slash = strrchr(path, '/');
    return slash != nullptr ? slash + 1 : path;
}

}  // namespace

struct Function {
    const Kernel* kernel;
    u32 dynamic_allowed = emulator::SHARED_DEFAULT;
    const InterpretedKernel* interpreted = nullptr;
    // What `kernel` points to if it is interpreted.
    std::unique_ptr<Kernel> described = nullptr;
};

struct Module {
    std::string source;
    std::vector<std::unique_ptr<Function>> functions;
    // 0: its kernels are the compiled ones.
    u64 interpreted = 0;
};

API Code cuModuleLoadData(Module** module, const void* image) {
    if (const Code code = ready()) return code;
    const char* text = static_cast<const char*>(image);
    if (interpreter() != nullptr && strncmp(text, INTERPRETED, sizeof INTERPRETED - 1) == 0) {
        *module = new Module{"", {}, strtoull(text + sizeof INTERPRETED - 1, nullptr, 10)};
        return SUCCESS;
    }
    if (strncmp(text, MARK, sizeof MARK - 1) != 0) return INVALID_IMAGE;
    *module = new Module{text + sizeof MARK - 1, {}};
    return SUCCESS;
}

API Code cuModuleLoadDataEx(Module** module, const void* image, u32, u32*, void**) {
    return cuModuleLoadData(module, image);
}

API Code cuModuleUnload(Module* module) {
    const Code code = finish_all(false);
    delete module;
    return code;
}

static Code find_interpreted(Function** function, Module* module, const char* name) {
    const InterpretedKernel* found = interpreter()->find(module->interpreted, name);
    if (found == nullptr) return NOT_FOUND;
    for (const auto& known : module->functions) {
        if (known->interpreted == found) return *function = known.get(), Code(SUCCESS);
    }
    auto kernel =
        std::make_unique<Kernel>(found->name, found->file, found->max_threads, found->parameters, found->sizes);
    module->functions.push_back(std::make_unique<Function>());
    Function& made = *module->functions.back();
    made.kernel = kernel.get();
    made.described = std::move(kernel);
    made.interpreted = found;
    *function = &made;
    return SUCCESS;
}

// A kernel of the source file that the module was compiled from.
API Code cuModuleGetFunction(Function** function, Module* module, const char* name) {
    if (module->interpreted != 0) return find_interpreted(function, module, name);
    const Kernel* kernel = emulator::find(name);
    if (kernel == nullptr || without_folders(kernel->file) != module->source) return NOT_FOUND;
    for (const auto& known : module->functions) {
        if (known->kernel == kernel) return *function = known.get(), Code(SUCCESS);
    }
    module->functions.push_back(std::make_unique<Function>(Function{kernel}));
    *function = module->functions.back().get();
    return SUCCESS;
}

// Kernels that the calling thread had loaded by name, which a real driver otherwise does at their first launch.
static __thread u64 loaded = 0;
API u64 cuda_emulator_loaded() { return loaded; }

API Code cuFuncLoad(Function* function) {
    if (function == nullptr) return INVALID_HANDLE;
    loaded++;
    return SUCCESS;
}

// Static shared memory of a compiled kernel is not known before it runs; it counts as 0 here and is checked then.
API Code cuFuncGetAttribute(int* value, u32 attribute, const Function* function) {
    switch (attribute) {
        case 0: *value = static_cast<int>(function->kernel->max_threads); break;
        case 1: *value = function->interpreted == nullptr ? 0 : int(function->interpreted->static_shared); break;
        case 4: *value = 32; break;
        case 5:
        case 6: *value = static_cast<int>(capability()); break;
        case 8: *value = static_cast<int>(function->dynamic_allowed); break;
        default: *value = 0;
    }
    return attribute <= 16 ? SUCCESS : INVALID_VALUE;
}

API Code cuFuncSetAttribute(Function* function, u32 attribute, int value) {
    if (attribute == 9) return SUCCESS;
    if (attribute != 8 || value < 0 || u32(value) > most_shared()) return INVALID_VALUE;
    function->dynamic_allowed = value;
    return SUCCESS;
}

API Code cuFuncSetCacheConfig(Function*, u32) { return SUCCESS; }

API Code cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const Function* function, int threads,
                                                     size_t dynamic) {
    if (threads <= 0 || u32(threads) > function->kernel->max_threads) return INVALID_VALUE;
    *blocks = static_cast<int>(std::min<u64>({32, u64(2048 / threads), (most_shared() + 1024) / (dynamic + 1024)}));
    return SUCCESS;
}

namespace {

std::string misuse(const Function& function, const u32 (&grid)[3], const u32 (&block)[3], u32 dynamic) {
    const auto text = [](u64 number) { return std::to_string(number); };
    if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0 || grid[0] > 0x7fffffff || grid[1] > 65535 || grid[2] > 65535) {
        return "a grid of " + text(grid[0]) + " x " + text(grid[1]) + " x " + text(grid[2]) +
               " blocks; 1 to 2147483647 x 65535 x 65535 are allowed";
    }
    if (block[1] != 1 || block[2] != 1) return "a block that is not one-dimensional, which the emulator does not know";
    if (block[0] == 0 || block[0] > function.kernel->max_threads) {
        return text(block[0]) + " threads; 1 to " + text(function.kernel->max_threads) + " are allowed";
    }
    if (dynamic > function.dynamic_allowed) {
        return text(dynamic) + " bytes of dynamic shared memory; " + text(function.dynamic_allowed) +
               " are allowed (CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)";
    }
    return "";
}

}  // namespace

API Code cuLaunchKernel(Function* function, u32 grid_x, u32 grid_y, u32 grid_z, u32 block_x, u32 block_y, u32 block_z,
                        u32 dynamic, Stream* handle, void** parameters, void** extra) {
    if (const Code code = ready()) return code;
    Stream* stream = stream_of(handle);
    if (function == nullptr || stream == nullptr) return INVALID_HANDLE;
    if (extra != nullptr) return NOT_SUPPORTED;
    const u32 grid[3] = {grid_x, grid_y, grid_z}, block[3] = {block_x, block_y, block_z};
    const std::string wrong = misuse(*function, grid, block, dynamic);
    const Kernel& kernel = *function->kernel;
    if (!wrong.empty())
        return failed(INVALID_VALUE, std::string("kernel ") + kernel.name + " was launched with " + wrong);
    cuda_emulator_count(kernel.name);
    const auto kept = std::make_shared<emulator::Parameters>(kernel, parameters);
    const emulator::Manner manner = emulator::manner();
    const InterpretedKernel* interpreted = function->interpreted;
    return stream->add([=, &kernel] {
        const u32 blocks[3] = {grid_x, grid_y, grid_z};
        if (interpreted != nullptr) {
            char message[1024] = "";
            void** pointers = kept->pointers();
            const u32 wrong = interpreter()->run(interpreted, blocks, block_x, dynamic, pointers, manner.order, message,
                                                 sizeof message);
            return wrong == 0 ? Code(SUCCESS) : failed(wrong == 2 ? ILLEGAL_ADDRESS : LAUNCH_FAILED, message);
        }
        const emulator::Outcome outcome = emulator::run(kernel, blocks, block_x, dynamic, *kept, manner);
        if (outcome.text.empty()) return Code(SUCCESS);
        return failed(outcome.fault ? ILLEGAL_ADDRESS : LAUNCH_FAILED, outcome.text);
    });
}
