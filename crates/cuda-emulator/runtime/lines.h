// Where an instruction of a kernel stands in its source.
#pragma once
#include <string>

namespace emulator {

// The file's name and the line, by the program `addr2line`; nothing without it.
std::string line_of(const void* instruction);
// Whether an address is of this library's own code and constants.
bool in_library(unsigned long long address);

}  // namespace emulator
