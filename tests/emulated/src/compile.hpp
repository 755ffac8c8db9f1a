// From CUDA C++ to a shared object of this machine. Both libraries have it: NVRTC's, to report what does not compile, and the driver's,
// to load "PTX" that an application kept from an earlier run.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

// What both read from the environment; see README.md.
std::string emu_setting(const char* name, const char* otherwise);

// The source as the CPU's compiler takes it, with an entry for each kernel at its end.
std::string emu_translate(const std::string& source, int architecture);
std::string emu_without_ptx(const std::string& text);

// The path of the shared object, compiled unless it is there. Empty where the compiler refuses; then `log` says why.
std::string emu_compile(const std::string& translated, std::string& log);

// What NVRTC makes and the driver loads: PTX, or the machine code of an architecture.
struct Image {
    bool is_ptx;
    int architecture;  // 80 of sm_80 and compute_80.
    bool is_specific;  // sm_90a: for this very architecture.
    int toolkit;       // 12090 of CUDA 12.9.
    std::string source;  // Translated.
};
std::string emu_write(const Image& image);
bool emu_read(const void* bytes, Image& image);
