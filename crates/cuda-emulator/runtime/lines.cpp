#include "lines.h"

#include <dlfcn.h>
#include <link.h>

#include <cstdio>
#include <cstring>

namespace emulator {

namespace {

struct Library {
    unsigned long long begin = 0, end = 0;
    std::string path;
};

int look(dl_phdr_info* info, size_t, void* data) {
    auto* library = static_cast<Library*>(data);
    const auto own = reinterpret_cast<unsigned long long>(&look);
    unsigned long long begin = ~0ull, end = 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const auto& segment = info->dlpi_phdr[i];
        if (segment.p_type != PT_LOAD) continue;
        const unsigned long long from = info->dlpi_addr + segment.p_vaddr;
        if (from < begin) begin = from;
        if (from + segment.p_memsz > end) end = from + segment.p_memsz;
    }
    if (own < begin || own >= end) return 0;
    library->begin = begin;
    library->end = end;
    library->path = info->dlpi_name;
    return 1;
}

const Library& library() {
    static const Library* const library = [] {
        auto* found = new Library();
        dl_iterate_phdr(look, found);
        return found;
    }();
    return *library;
}

}  // namespace

std::string line_of(const void* instruction) {
    // The call is before the address that it returns to.
    const unsigned long long offset = reinterpret_cast<unsigned long long>(instruction) - 1 - library().begin;
    char command[64], line[512];
    snprintf(command, sizeof command, " %llx 2>/dev/null", offset);
    FILE* output = popen(("addr2line -s -i -e '" + library().path + "'" + command).c_str(), "r");
    if (output == nullptr) return "";
    // The innermost function first, then those that it is inlined into: the first that is a kernel's own.
    std::string found;
    while (found.empty() && fgets(line, sizeof line, output) != nullptr) {
        line[strcspn(line, "\n ")] = 0;
        const bool own = strncmp(line, "device.h:", 9) != 0 && strncmp(line, "gpu.h:", 6) != 0 && line[0] != '?';
        if (own) found = line;
    }
    pclose(output);
    return found;
}

bool in_library(unsigned long long address) { return address >= library().begin && address < library().end; }

}  // namespace emulator
