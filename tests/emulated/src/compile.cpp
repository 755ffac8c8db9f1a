#include "compile.hpp"

#include <dlfcn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <regex>
#include <sstream>
#include <unordered_map>

std::string emu_setting(const char* name, const char* otherwise) {
    const char* said = getenv(name);
    return said && *said ? said : otherwise;
}

// The folder of the emulator: this library lies in its lib/.
static std::string home() {
    Dl_info info;
    if (!dladdr((void*)&home, &info) || !info.dli_fname) return ".";
    char* real = realpath(info.dli_fname, nullptr);
    std::string path = real ? real : info.dli_fname;
    free(real);
    for (int up = 0; up < 2; up++) {
        size_t cut = path.rfind('/');
        path = cut == std::string::npos ? "." : path.substr(0, cut);
    }
    return path;
}

static uint64_t hash(const std::string& text, uint64_t state) {
    for (unsigned char c : text) state = (state ^ c) * 1099511628211ull;
    return state;
}

static std::string read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::stringstream all;
    all << file.rdbuf();
    return all.str();
}

static std::string replaced(std::string text, const std::string& what, const std::string& with) {
    for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += with.size()) text.replace(at, what.size(), with);
    return text;
}

// cubecl numbers a kernel's values differently at each start: v1, v2, .. in the order of the text, so that it is compiled once.
static std::string renumbered(const std::string& text) {
    std::unordered_map<std::string, size_t> numbers;
    std::string out;
    for (size_t at = 0; at < text.size();) {
        bool is_word = isalpha(text[at]) || text[at] == '_';
        size_t end = at + 1, digits = at + 1;
        while (is_word && end < text.size() && (isalnum(text[end]) || text[end] == '_')) end++;
        while (digits < end && isdigit(text[digits])) digits++;
        if (text[at] == 'v' && is_word && digits > at + 1 && (at == 0 || !isalnum(text[at - 1])))
            out += 'v' + std::to_string(numbers.emplace(text.substr(at, digits - at), numbers.size()).first->second) + text.substr(digits, end - digits);
        else
            out.append(text, at, end - at);
        at = end;
    }
    return out;
}

std::string emu_translate(const std::string& source, int architecture) {
    static const std::regex shared("extern\\s+__shared__\\s+(?:__align__\\([^)]*\\)\\s*)?(\\w+)\\s+(\\w+)\\s*\\[\\s*\\]\\s*;");
    static const std::regex kernel("__global__\\s+void\\s+(?:__launch_bounds__\\([^)]*\\)\\s*)?(?:__cluster_dims__\\([^)]*\\)\\s*)?(\\w+)\\s*\\(");
    // All who come to a site take part, whatever the mask says.
    std::string text = renumbered(replaced(source, "_sync(__activemask(),", "_sync(0xffffffffu,"));
    text = std::regex_replace(text, shared, "$1* const $2 = ($1*)__emu->shared;");
    if (text.find("asm") != std::string::npos) text = emu_without_ptx(text);
    // Where the source asks for it only, so that the same kernel of two architectures is compiled once.
    if (text.find("__CUDA_ARCH__") != std::string::npos) text = "#define __CUDA_ARCH__ " + std::to_string(architecture * 10) + "\n" + text;
    bool waits = false;
    for (const char* sign : {"__syncthreads", "__syncwarp", "_sync(", "__activemask", "__emu_m", "cuda/barrier", "__emu->shared"})
        waits = waits || text.find(sign) != std::string::npos;
    std::string entries = "\nextern \"C\" void __emu_start(const EmuApi* api) { __emu_api = api; __emu = api->context; }\n";
    for (std::sregex_iterator match(text.begin(), text.end(), kernel), end; match != end; ++match) {
        std::string name = (*match)[1];
        entries += "extern \"C\" void __emu_call_" + name + "(void** given) { __emu_call(" + name + ", given); }\n";
        entries += "extern \"C\" void __emu_block_" + name + "(void** given) { __emu_block(" + name + ", given); }\n";
        entries += "extern \"C\" int __emu_parameters_" + name + "() { return __emu_parameters(" + name + "); }\n";
        entries += "extern \"C\" const int __emu_waits_" + name + " = " + (waits ? "1" : "0") + ";\n";
    }
    return text + entries;
}

std::string emu_compile(const std::string& translated, std::string& log) {
    std::string include = home() + "/include", compiler = emu_setting("EMU_CXX", "g++");
    std::string flags = "-std=c++17 -" + emu_setting("EMU_OPTIMIZE", "O2") + " -fPIC -shared -fno-strict-aliasing -fno-exceptions -fno-rtti -fwrapv -w -x c++";
#if defined(__x86_64__)
    flags += " -march=native -ffp-contract=fast";
#endif
    if (emu_setting("EMU_CHECK", "0") != "0")
        flags += " -fsanitize=kernel-address --param asan-instrumentation-with-call-threshold=0 --param asan-stack=0 --param asan-globals=0";
    flags += " " + emu_setting("EMU_CXXFLAGS", "");
    uint64_t key = hash(translated, hash(compiler + flags, 14695981039346656037ull));
    for (const char* header : {"emu_device.h", "emu_ptx.h", "emu_half.h", "cuda_fp16.h", "cuda_bf16.h", "crt/mma.h", "cuda/barrier"}) key = hash(read(include + "/" + header), key);
    std::string cache = emu_setting("EMU_CACHE", (emu_setting("HOME", "/tmp") + "/.cache/cuda-emulator").c_str());
    char name[32];
    snprintf(name, sizeof name, "/%016llx", (unsigned long long)key);
    std::string base = cache + name, object = base + ".so";
    if (access(object.c_str(), R_OK) == 0) return object;
    for (size_t at = 1; at <= cache.size(); at++)
        if (at == cache.size() || cache[at] == '/') mkdir(cache.substr(0, at).c_str(), 0777);
    std::string own = base + "." + std::to_string(getpid());
    std::ofstream(own + ".cpp") << translated;
    std::string command = compiler + " " + flags + " -I '" + include + "' -include emu_device.h -o '" + own + ".so' '" + own + ".cpp' -lm 2>&1";
    FILE* pipe = popen(command.c_str(), "r");
    if (!pipe) {
        log = "cannot start " + compiler;
        return "";
    }
    char buffer[4096];
    for (size_t read; (read = fread(buffer, 1, sizeof buffer, pipe)) > 0;) log.append(buffer, read);
    int status = pclose(pipe);
    if (status != 0) {
        log += "\n(" + compiler + " ended with " + std::to_string(WEXITSTATUS(status)) + "; the source is " + own + ".cpp)\n";
        return "";
    }
    rename((own + ".cpp").c_str(), (base + ".cpp").c_str());
    rename((own + ".so").c_str(), object.c_str());
    return object;
}

// PTX ends with a zero, as a text; machine code tells its length, as an ELF file does.
static const char PTX[] = "// PTX of the CUDA emulator", CUBIN[] = "\177ELF of the CUDA emulator";

std::string emu_write(const Image& image) {
    char head[128];
    snprintf(head, sizeof head, "%s, sm_%d%s, toolkit %d, %zu bytes\n", image.is_ptx ? PTX : CUBIN, image.architecture, image.is_specific ? "a" : "", image.toolkit, image.source.size());
    return head + image.source + (image.is_ptx ? std::string(1, '\0') : "");
}

bool emu_read(const void* bytes, Image& image) {
    const char* text = (const char*)bytes;
    image.is_ptx = strncmp(text, PTX, strlen(PTX)) == 0;
    if (!image.is_ptx && strncmp(text, CUBIN, strlen(CUBIN)) != 0) return false;
    size_t size = 0;
    char specific[2] = "";
    const char* fields = text + strlen(image.is_ptx ? PTX : CUBIN);
    if (sscanf(fields, ", sm_%d%1[a], toolkit %d, %zu bytes", &image.architecture, specific, &image.toolkit, &size) != 4 &&
        sscanf(fields, ", sm_%d, toolkit %d, %zu bytes", &image.architecture, &image.toolkit, &size) != 3) return false;
    image.is_specific = *specific;
    image.source.assign(strchr(text, '\n') + 1, size);
    return true;
}
