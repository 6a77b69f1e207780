// libnvrtc: a compiler that compiles nothing. The kernels are already in the emulated libcuda; the "machine code" is
// the name of the source, by which that library finds them. Where an interpreter is set, programs go to its compiler.
#include <dlfcn.h>

#include <cstring>
#include <string>
#include <vector>

#include "interpreter.h"

#define API extern "C" __attribute__((visibility("default")))

typedef u32 Code;
enum : Code { SUCCESS = 0, INVALID_INPUT = 3, INVALID_PROGRAM = 4, INVALID_OPTION = 5, COMPILATION = 6 };

namespace {

const int ARCHITECTURES[] = {75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121};

const char* const NAMES[] = {"NVRTC_SUCCESS",
                             "NVRTC_ERROR_OUT_OF_MEMORY",
                             "NVRTC_ERROR_PROGRAM_CREATION_FAILURE",
                             "NVRTC_ERROR_INVALID_INPUT",
                             "NVRTC_ERROR_INVALID_PROGRAM",
                             "NVRTC_ERROR_INVALID_OPTION",
                             "NVRTC_ERROR_COMPILATION"};

bool known(const char* architecture) {
    const int number = atoi(architecture);
    for (const int each : ARCHITECTURES) {
        if (each == number) return true;
    }
    return false;
}

}  // namespace

struct Program {
    std::string source, name, log, cubin;
    std::vector<std::string> headers, texts;
};

namespace {

// What an error in the source looks like: `#error`, or an include that was not given.
std::string complaint(const Program& program) {
    size_t number = 1;
    for (size_t at = 0; at < program.source.size(); number++) {
        const size_t end = std::min(program.source.find('\n', at), program.source.size());
        const std::string line = program.source.substr(at, end - at);
        const std::string place = program.name + "(" + std::to_string(number) + "): ";
        if (line.compare(0, 6, "#error") == 0) return place + "error: " + line + "\n";
        if (line.compare(0, 10, "#include \"") == 0) {
            const std::string wanted = line.substr(10, line.find('"', 10) - 10);
            bool given = false;
            for (const std::string& header : program.headers) given = given || header == wanted;
            if (!given) return place + "catastrophic error: cannot open source file \"" + wanted + "\"\n";
        }
        at = end + 1;
    }
    return "";
}

// That of the emulated libcuda, if this process has loaded it.
const Interpreter* set_interpreter() {
    void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    if (driver == nullptr) return nullptr;
    void* found = dlsym(driver, "cuda_emulator_interpreter");
    const Interpreter* set = found != nullptr ? reinterpret_cast<const Interpreter* (*)()>(found)() : nullptr;
    dlclose(driver);
    return set;
}

Code compile(const Interpreter& interpreter, Program& program, int count, const char* const* options) {
    std::vector<const char*> names, texts;
    for (const std::string& header : program.headers) names.push_back(header.c_str());
    for (const std::string& text : program.texts) texts.push_back(text.c_str());
    const ProgramText text{program.name.c_str(), program.source.c_str(), u32(names.size()), u32(count),
                           names.data(),         texts.data(),           options};
    std::vector<char> log(1 << 16);
    const u64 module = interpreter.compile(&text, log.data(), log.size());
    program.log = log.data();
    if (module == 0) return COMPILATION;
    program.cubin = "interpreted module " + std::to_string(module);
    return SUCCESS;
}

}  // namespace

API Code nvrtcVersion(int* major, int* minor) {
    *major = 13;
    *minor = 0;
    return SUCCESS;
}

API const char* nvrtcGetErrorString(Code code) { return code <= COMPILATION ? NAMES[code] : "NVRTC_ERROR unknown"; }

API Code nvrtcGetNumSupportedArchs(int* count) {
    *count = sizeof ARCHITECTURES / sizeof *ARCHITECTURES;
    return SUCCESS;
}

API Code nvrtcGetSupportedArchs(int* architectures) {
    memcpy(architectures, ARCHITECTURES, sizeof ARCHITECTURES);
    return SUCCESS;
}

API Code nvrtcCreateProgram(Program** program, const char* source, const char* name, int headers,
                            const char* const* texts, const char* const* header_names) {
    if (source == nullptr || headers < 0) return INVALID_INPUT;
    *program = new Program{source, name != nullptr ? name : "default_program", "", "", {}, {}};
    for (int i = 0; i < headers; i++) {
        (*program)->headers.push_back(header_names[i]);
        (*program)->texts.push_back(texts[i]);
    }
    return SUCCESS;
}

API Code nvrtcDestroyProgram(Program** program) {
    delete *program;
    *program = nullptr;
    return SUCCESS;
}

API Code nvrtcCompileProgram(Program* program, int count, const char* const* options) {
    if (program == nullptr) return INVALID_PROGRAM;
    bool chosen = false;
    for (int i = 0; i < count; i++) {
        const std::string option = options[i];
        const std::string key = "--gpu-architecture=sm_";
        if (option.compare(0, key.size(), key) != 0) continue;
        chosen = known(option.c_str() + key.size());
        if (!chosen) program->log = "nvrtc: error: invalid value for --gpu-architecture (-arch)\n";
    }
    if (!chosen) return INVALID_OPTION;
    if (const Interpreter* interpreter = set_interpreter()) return compile(*interpreter, *program, count, options);
    program->log = complaint(*program);
    if (!program->log.empty()) return COMPILATION;
    program->cubin = "emulated cubin of " + program->name.substr(program->name.rfind('/') + 1);
    return SUCCESS;
}

API Code nvrtcGetProgramLogSize(const Program* program, size_t* bytes) {
    *bytes = program->log.size() + 1;
    return SUCCESS;
}

API Code nvrtcGetProgramLog(const Program* program, char* log) {
    memcpy(log, program->log.c_str(), program->log.size() + 1);
    return SUCCESS;
}

API Code nvrtcGetCUBINSize(const Program* program, size_t* bytes) {
    *bytes = program->cubin.empty() ? 0 : program->cubin.size() + 1;
    return program->cubin.empty() ? INVALID_PROGRAM : SUCCESS;
}

API Code nvrtcGetCUBIN(const Program* program, char* cubin) {
    memcpy(cubin, program->cubin.c_str(), program->cubin.size() + 1);
    return SUCCESS;
}
