// Source locations of a kernel's instructions.
#pragma once
#include <string>

namespace emulator {

// File name and line, from the program `addr2line`; empty if it is not installed.
std::string line_of(const void* instruction);
// Whether an address is of this library's own code and constants.
bool in_library(unsigned long long address);

}  // namespace emulator
