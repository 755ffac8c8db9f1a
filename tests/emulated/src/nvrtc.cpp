// libnvrtc of the emulator: the compiler of kernels.
#include <cstring>
#include <fstream>
#include <regex>
#include <string>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

#include "compile.hpp"

struct Program {
    std::string source, ptx, cubin, log;
};

static int version() { // 12090 of 12.9
    std::string said = emu_setting("EMU_NVRTC_VERSION", "12.9");
    int major = 0, minor = 0;
    sscanf(said.c_str(), "%d.%d", &major, &minor);
    return major * 1000 + minor * 10;
}

// The architectures of each toolkit: since which and, with 0 for none, until before which.
static std::vector<int> architectures() {
    static const int known[][3] = {{50, 0, 13000}, {52, 0, 13000}, {53, 0, 13000}, {60, 0, 13000}, {61, 0, 13000}, {62, 0, 13000}, {70, 0, 13000}, {72, 0, 13000}, {75, 0, 0}, {80, 11000, 0}, {86, 11010, 0}, {87, 11040, 0}, {89, 11080, 0}, {90, 11080, 0}, {100, 12080, 0}, {101, 12080, 13000}, {103, 12090, 0}, {110, 13000, 0}, {120, 12080, 0}, {121, 12090, 0}};
    std::vector<int> out;
    for (auto& [architecture, since, before] : known)
        if (version() >= since && (!before || version() < before)) out.push_back(architecture);
    return out;
}

// Writes a kernel's source into the folder that EMU_SOURCES names.
static void keep_source(const std::string& source) {
    std::string folder = emu_setting("EMU_SOURCES", "");
    if (folder.empty()) return;
    mkdir(folder.c_str(), 0777);
    uint64_t key = 14695981039346656037ull;
    for (unsigned char c : source) key = (key ^ c) * 1099511628211ull;
    size_t at = source.find("__global__");
    at = at == std::string::npos ? at : source.find('(', source.find(')', at));
    size_t start = at == std::string::npos ? at : source.rfind(' ', at) + 1;
    std::string name = at == std::string::npos ? "source" : source.substr(start, at - start);
    char tail[24];
    snprintf(tail, sizeof tail, "-%016llx", (unsigned long long)key);
    std::ofstream(folder + "/" + name.substr(0, 150) + tail + ".cu") << source;
}

// What a source includes has to lie in a folder that the options name, as for NVIDIA's compiler. Empty where it does.
static std::string missing_header(const std::string& source, const std::vector<std::string>& folders) {
    static const std::regex include("#include\\s*[<\"]([^>\"]+)[>\"]");
    for (std::sregex_iterator each(source.begin(), source.end(), include), end; each != end; ++each) {
        std::string name = (*each)[1];
        for (const std::string& header : name == "mma.h" ? std::vector<std::string>{name, "crt/mma.h"} : std::vector<std::string>{name}) {
            bool is_there = false;
            for (const auto& folder : folders) is_there = is_there || access((folder + "/" + header).c_str(), R_OK) == 0;
            if (!is_there) return header;
        }
    }
    return "";
}

extern "C" {
enum { SUCCESS = 0, INVALID_INPUT = 3, INVALID_PROGRAM = 4, INVALID_OPTION = 5, COMPILATION = 6, INTERNAL = 11 };

int nvrtcVersion(int* major, int* minor) { return *major = version() / 1000, *minor = version() % 1000 / 10, SUCCESS; }
// Since 11.2; a library cannot lose a function by a setting, so that an older one answers with an error.
int nvrtcGetNumSupportedArchs(int* count) { return version() < 11020 ? INTERNAL : (*count = (int)architectures().size(), SUCCESS); }
int nvrtcGetSupportedArchs(int* out) {
    if (version() < 11020) return INTERNAL;
    for (int each : architectures()) *out++ = each;
    return SUCCESS;
}
const char* nvrtcGetErrorString(int error) {
    switch (error) {
    case SUCCESS: return "NVRTC_SUCCESS";
    case INVALID_INPUT: return "NVRTC_ERROR_INVALID_INPUT";
    case INVALID_PROGRAM: return "NVRTC_ERROR_INVALID_PROGRAM";
    case INVALID_OPTION: return "NVRTC_ERROR_INVALID_OPTION";
    case COMPILATION: return "NVRTC_ERROR_COMPILATION";
    default: return "NVRTC_ERROR_INTERNAL_ERROR";
    }
}
int nvrtcCreateProgram(Program** program, const char* source, const char*, int, const char* const*, const char* const*) {
    return *program = new Program{source, "", "", ""}, SUCCESS;
}
int nvrtcDestroyProgram(Program** program) {
    delete *program;
    *program = nullptr;
    return SUCCESS;
}
int nvrtcCompileProgram(Program* program, int count, const char* const* options) {
    int architecture = 75;
    char kind[8] = "compute", specific[2] = "";
    std::vector<std::string> folders;
    for (int each = 0; each < count; each++) {
        const char* option = options[each];
        if (sscanf(option, "--gpu-architecture=%7[a-z]_%d%1[af]", kind, &architecture, specific) >= 2) continue;
        for (const char* name : {"--include-path=", "-I"})
            if (strncmp(option, name, strlen(name)) == 0) folders.push_back(option + strlen(name));
    }
    bool is_virtual = strcmp(kind, "compute") == 0, is_known = false;
    for (int each : architectures()) is_known = is_known || each == architecture;
    // Real architectures came with machine code, architecture-specific ones with 12.0.
    if (!is_known || (!is_virtual && version() < 11010) || (*specific && version() < 12000))
        return program->log = "nvrtc: error: invalid value for --gpu-architecture (-arch)\n", INVALID_OPTION;
    keep_source(program->source);
    std::string missing = missing_header(program->source, folders);
    if (!missing.empty()) return program->log = "default_program(1): catastrophic error: cannot open source file \"" + missing + "\"\n", COMPILATION;
    std::string translated = emu_translate(program->source, architecture);
    if (emu_setting("EMU_SKIP", "0") == "0" && emu_compile(translated, program->log).empty()) return COMPILATION;
    program->ptx = emu_write({true, architecture, *specific != 0, version(), translated});
    if (!is_virtual) program->cubin = emu_write({false, architecture, *specific != 0, version(), translated});
    return SUCCESS;
}
int nvrtcGetPTXSize(Program* program, size_t* size) { return *size = program->ptx.size(), SUCCESS; }
int nvrtcGetPTX(Program* program, char* out) { return memcpy(out, program->ptx.data(), program->ptx.size()), SUCCESS; }
int nvrtcGetCUBINSize(Program* program, size_t* size) { return *size = program->cubin.size(), SUCCESS; }
int nvrtcGetCUBIN(Program* program, char* out) { return memcpy(out, program->cubin.data(), program->cubin.size()), SUCCESS; }
int nvrtcGetProgramLogSize(Program* program, size_t* size) { return *size = program->log.size() + 1, SUCCESS; }
int nvrtcGetProgramLog(Program* program, char* out) { return memcpy(out, program->log.c_str(), program->log.size() + 1), SUCCESS; }
int nvrtcAddNameExpression(Program*, const char*) { return SUCCESS; }
int nvrtcGetLoweredName(Program*, const char* name, const char** lowered) { return *lowered = name, SUCCESS; }
}
