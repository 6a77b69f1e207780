// What the calling thread has given to streams: kernels by their names, products, copies and fills.
#include <cstdio>
#include <cstring>
#include <map>

#include "api.h"

static std::map<std::string, u64>& counts() {
    static thread_local std::map<std::string, u64> all;
    return all;
}

API void cuda_emulator_count(const char* what) { counts()[what]++; }

// Lines of a name and a number each, as many as there is room for; gives the bytes that all take, and a zero byte.
API u64 cuda_emulator_counts(char* text, u64 room) {
    std::string all;
    for (const auto& [name, count] : counts()) all += name + " " + std::to_string(count) + "\n";
    snprintf(text, room, "%s", all.c_str());
    return all.size() + 1;
}
