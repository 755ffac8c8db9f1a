// libcuda of the emulator: devices, memory, streams and launches. Everything is done before a call returns, on the caller's thread.
//
// Threads of a block are fibers that take turns. One that comes to a barrier or to an operation of its warp stops there; when all have
// stopped, those who can go on together do. What a real device does at the same time is done here in one order of many.
#include <dlfcn.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "compile.hpp"

typedef int CUresult;
typedef unsigned long long CUdeviceptr;
enum {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201, NO_BINARY_FOR_GPU = 209, UNSUPPORTED_PTX_VERSION = 222, INVALID_HANDLE = 400, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700,
    LAUNCH_TIMEOUT = 702, LAUNCH_FAILED = 719, NOT_SUPPORTED = 801
};

// ---------------------------------------------------------------------------------------------------------------- settings and the log

static long long number(const char* name, long long otherwise) {
    std::string said = emu_setting(name, "");
    if (said.empty()) return otherwise;
    char* end;
    double value = strtod(said.c_str(), &end);
    switch (*end) {
    case 'k': case 'K': value *= 1024; break;
    case 'm': case 'M': value *= 1024.0 * 1024; break;
    case 'g': case 'G': value *= 1024.0 * 1024 * 1024; break;
    }
    return (long long)value;
}

// Nothing is computed and nothing copied: for counting what is launched, at sizes that no CPU would bear.
static const bool skips = number("EMU_SKIP", 0) != 0;

static std::recursive_mutex mutex;
typedef std::lock_guard<std::recursive_mutex> Lock;

static FILE* log_file() {
    static FILE* file = [] {
        std::string path = emu_setting("EMU_LOG", "");
        FILE* opened = path.empty() ? nullptr : fopen(path.c_str(), "a");
        if (opened) setvbuf(opened, nullptr, _IOLBF, 1 << 16);
        return opened;
    }();
    return file;
}
static double now() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}
// One line of the log: a number, the moment in seconds, the kind, then fields of that kind, all separated by tabs.
static void note(const char* kind, const char* format = nullptr, ...) {
    FILE* file = log_file();
    if (!file) return;
    static long long line = 0;
    static double began = now();
    fprintf(file, "%lld\t%.6f\t%s", line++, now() - began, kind);
    if (format) {
        va_list rest;
        va_start(rest, format);
        fputc('\t', file);
        vfprintf(file, format, rest);
        va_end(rest);
    }
    fputc('\n', file);
}

// ------------------------------------------------------------------------------------------------------------------------------ errors

static std::atomic<int> sticky{SUCCESS};
static std::atomic<bool> is_initialized{false};

// The driver's names and words.
struct Error { int number; const char *name, *text; };
static const Error ERRORS[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {214, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
    {222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain."},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {702, "CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated"},
    {716, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver / cuda driver combination"},
    {804, "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE", "forward compatibility was attempted on non supported HW"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};
static const Error& error_of(int number) {
    for (const auto& error : ERRORS)
        if (error.number == number) return error;
    return ERRORS[sizeof ERRORS / sizeof *ERRORS - 1];
}
#define ENTER \
    Lock lock(mutex); \
    if (!is_initialized) return NOT_INITIALIZED; \
    if (sticky != SUCCESS) return sticky

// ------------------------------------------------------------------------------------------------------------------------------ memory

struct Allocation {
    size_t bytes, mapped;
    // For checks: the last launch that read and that wrote each sector of 32 bytes.
    std::vector<unsigned> read, written;
};
static std::map<CUdeviceptr, Allocation> device_memory;
static std::map<void*, size_t> host_memory;
static size_t device_used = 0, device_peak = 0;

static size_t memory_limit() {
    static size_t limit = (size_t)number("EMU_MEMORY", 2ll << 30);
    return limit;
}
static std::map<CUdeviceptr, Allocation>::iterator allocation_of(CUdeviceptr address) {
    auto after = device_memory.upper_bound(address);
    if (after == device_memory.begin()) return device_memory.end();
    --after;
    return address < after->first + after->second.bytes ? after : device_memory.end();
}
static bool is_device(CUdeviceptr address, size_t bytes) {
    auto found = allocation_of(address);
    return bytes == 0 || (found != device_memory.end() && address + bytes <= found->first + found->second.bytes);
}

static CUresult allocate(CUdeviceptr* out, size_t bytes, const char* kind) {
    static long long count = 0, fails = number("EMU_FAIL_ALLOC", -1);
    if (bytes == 0) return INVALID_VALUE;
    size_t rounded = (bytes + 511) / 512 * 512;
    // As on a card whose memory another program took: it and all that come after it.
    if ((++count >= fails && fails > 0) || device_used + rounded > memory_limit()) {
        note("oom", "%s\t%zu\t%zu", kind, bytes, device_used);
        return OUT_OF_MEMORY;
    }
    // A page that may not be touched follows each allocation.
    size_t page = 4096, mapped = (rounded + page - 1) / page * page + page;
    char* memory = (char*)mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return OUT_OF_MEMORY;
    mprotect(memory + mapped - page, page, PROT_NONE);
    std::string fill = emu_setting("EMU_FILL", "");
    if (!fill.empty()) memset(memory, (int)strtol(fill.c_str(), nullptr, 16), bytes);
    device_memory[(CUdeviceptr)memory] = Allocation{rounded, mapped, {}, {}};
    device_used += rounded;
    if (device_used > device_peak) device_peak = device_used;
    *out = (CUdeviceptr)memory;
    note("alloc", "%s\t%zu\t%zu", kind, bytes, device_used);
    return SUCCESS;
}
static CUresult release(CUdeviceptr address) {
    auto found = device_memory.find(address);
    if (found == device_memory.end()) return INVALID_VALUE;
    device_used -= found->second.bytes;
    note("free", "%zu\t%zu", found->second.bytes, device_used);
    munmap((void*)address, found->second.mapped);
    device_memory.erase(found);
    return SUCCESS;
}

// ------------------------------------------------------------------------------------------------------------------------------ fibers

extern "C" {
struct EmuContext {
    struct { unsigned x, y, z; } thread, block, threads, blocks;
    char* shared;
    unsigned lane;
    unsigned serial;
};
struct EmuApi {
    EmuContext* context;
    void (*barrier)(unsigned);
    void (*warp)(unsigned, void (*)(void**, unsigned), void*);
    void (*access)(const void*, size_t, int);
    int (*print)(const char*, ...);
    void (*wait)(bool (*)(void*), void*);
    void (*fault)(const char*, ...);
};
}

enum State { READY, AT_BARRIER, AT_WARP, AT_WAIT, DONE };
struct Fiber {
    char* stack;
    void* sp;
    ucontext_t context;
    State state;
    unsigned site;
    void (*together)(void**, unsigned);
    bool (*ready)(void*);
    void* own;
    unsigned x, y, z;
};
static const size_t STACK = 128 << 10;
static std::vector<Fiber> fibers;
static Fiber* running = nullptr;
static EmuContext context;
static void (*entry)(void**);
static void** arguments;
static char* shared_memory = nullptr;
static const size_t SHARED = 256 << 10;

#if defined(__x86_64__)
// Keeps what a called function must keep, and changes stacks.
extern "C" void emu_switch(void** from, void* to);
asm(R"(
.text
.globl emu_switch
.hidden emu_switch
.type emu_switch, @function
emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emu_switch, .-emu_switch
)");
static void* scheduler_sp;
static void fiber_body();
static void prepare(Fiber& fiber) {
    void** top = (void**)(((uintptr_t)fiber.stack + STACK) & ~(uintptr_t)63);
    *--top = nullptr; // Where the body would return to; it does not.
    *--top = (void*)fiber_body;
    for (int kept = 0; kept < 6; kept++) *--top = nullptr;
    fiber.sp = top;
}
static void resume(Fiber& fiber) { emu_switch(&scheduler_sp, fiber.sp); }
static void stop() {
    Fiber* own = running;
    emu_switch(&own->sp, scheduler_sp);
}
#else
static ucontext_t scheduler_context;
static void fiber_body();
static void prepare(Fiber& fiber) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_body, 0);
}
static void resume(Fiber& fiber) { swapcontext(&scheduler_context, &fiber.context); }
static void stop() {
    Fiber* own = running;
    swapcontext(&own->context, &scheduler_context);
}
#endif

static void fiber_body() {
    entry(arguments);
    running->state = DONE;
    stop();
}
static void go(Fiber& fiber, unsigned index) {
    running = &fiber;
    context.thread = {fiber.x, fiber.y, fiber.z};
    context.lane = index % 32;
    resume(fiber);
    running = nullptr;
}
static void barrier(unsigned site) {
    running->state = AT_BARRIER;
    running->site = site;
    stop();
}
static void warp(unsigned site, void (*together)(void**, unsigned), void* own) {
    running->state = AT_WARP;
    running->site = site;
    running->together = together;
    running->own = own;
    stop();
}

// It always stops, so that the threads of a warp go on together after it, as a compiler has them do.
static void wait_until(bool (*ready)(void*), void* own) {
    running->state = AT_WAIT;
    running->ready = ready;
    running->own = own;
    stop();
}

// What threads of the launch that runs did wrong. Kept until the launch ends, then one line is written for each kind.
static const char* kernel_name = "";
static long long launch_number = 0;
static long long diverged_barriers, partial_warps;
static bool reports_partial_warps = false, is_stuck = false;
static long long faults;
static char fault_text[512];
static void fault(const char* format, ...) {
    if (faults++) return;
    va_list rest;
    va_start(rest, format);
    vsnprintf(fault_text, sizeof fault_text, format, rest);
    va_end(rest);
}

// The threads of a warp go on until each has stopped; then who is furthest behind in the text goes on with all who are there too.
static bool advance_warp(unsigned first, unsigned count) {
    bool moved = false;
    for (;;) {
        for (unsigned lane = 0; lane < count; lane++)
            if (fibers[first + lane].state == READY) go(fibers[first + lane], first + lane), moved = true;
        bool goes_on = false;
        for (unsigned lane = 0; lane < count; lane++) {
            Fiber& fiber = fibers[first + lane];
            if (fiber.state == AT_WAIT && fiber.ready(fiber.own)) fiber.state = READY, goes_on = true;
        }
        if (goes_on) continue;
        unsigned site = ~0u, mask = 0, alive = 0;
        for (unsigned lane = 0; lane < count; lane++) {
            Fiber& fiber = fibers[first + lane];
            if (fiber.state != DONE) alive |= 1u << lane;
            if (fiber.state == AT_WARP && fiber.site < site) site = fiber.site;
        }
        if (site == ~0u) return moved;
        void* of_lanes[32] = {};
        void (*together)(void**, unsigned) = nullptr;
        for (unsigned lane = 0; lane < count; lane++) {
            Fiber& fiber = fibers[first + lane];
            if (fiber.state != AT_WARP || fiber.site != site) continue;
            mask |= 1u << lane;
            of_lanes[lane] = fiber.own;
            together = fiber.together;
            fiber.state = READY;
        }
        if (mask != alive) partial_warps++;
        together(of_lanes, mask);
        moved = true;
    }
}
static void run_block(unsigned count) {
    if (fibers.size() < count) {
        size_t before = fibers.size();
        fibers.resize(count);
        for (size_t each = before; each < count; each++) {
            fibers[each].stack = (char*)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        }
    }
    unsigned index = 0;
    for (unsigned z = 0; z < context.threads.z; z++)
        for (unsigned y = 0; y < context.threads.y; y++)
            for (unsigned x = 0; x < context.threads.x; x++, index++) {
                Fiber& fiber = fibers[index];
                fiber.state = READY, fiber.x = x, fiber.y = y, fiber.z = z;
                prepare(fiber);
            }
    for (;;) {
        for (unsigned first = 0; first < count; first += 32) advance_warp(first, count - first < 32 ? count - first : 32);
        bool waits = false, goes_on = false;
        for (unsigned each = 0; each < count; each++) {
            if (fibers[each].state != AT_WAIT) continue;
            waits = true;
            if (fibers[each].ready(fibers[each].own)) fibers[each].state = READY, goes_on = true;
        }
        if (goes_on) continue;
        if (waits) { // For ever: all others have ended, or stand at a barrier that wants these too.
            is_stuck = true;
            return;
        }
        unsigned waiting = 0, site = ~0u;
        bool differ = false;
        for (unsigned each = 0; each < count; each++) {
            if (fibers[each].state != AT_BARRIER) continue;
            differ = differ || (waiting && fibers[each].site != site);
            site = fibers[each].site;
            waiting++;
        }
        if (!waiting) return;
        if (differ) diverged_barriers++;
        for (unsigned each = 0; each < count; each++)
            if (fibers[each].state == AT_BARRIER) fibers[each].state = READY;
    }
}

// ------------------------------------------------------------------------------------------------------------------------------ checks

static long long bytes_read, bytes_written, sectors_read, sectors_written, shared_bytes;
static unsigned shared_in_use;

static void access_checked(const void* address, size_t bytes, int writes) {
    static std::map<CUdeviceptr, Allocation>::iterator last = device_memory.end();
    static size_t known = 0;
    CUdeviceptr at = (CUdeviceptr)address;
    if ((char*)address >= shared_memory && (char*)address < shared_memory + SHARED) {
        shared_bytes += bytes;
        if ((char*)address + bytes > shared_memory + shared_in_use && faults++ == 0)
            snprintf(fault_text, sizeof fault_text, "%s of %zu bytes at offset %td of shared memory, which has %u", writes ? "a write" : "a read", bytes, (char*)address - shared_memory, shared_in_use);
        return;
    }
    if (known != device_memory.size() || last == device_memory.end() || at < last->first || at >= last->first + last->second.bytes) {
        last = allocation_of(at);
        known = device_memory.size();
    }
    if (last == device_memory.end()) {
        // Stacks, arguments and constants are memory of the host. What lies just behind an allocation is not.
        auto before = device_memory.upper_bound(at);
        bool is_behind = before != device_memory.begin() && (--before, at < before->first + before->second.mapped);
        if ((is_behind || at < 65536) && faults++ == 0)
            snprintf(fault_text, sizeof fault_text, "%s of %zu bytes at %#llx, which is no memory of the device", writes ? "a write" : "a read", bytes, at);
        return;
    }
    if ((bytes & (bytes - 1)) == 0 && at % bytes != 0 && faults++ == 0)
        snprintf(fault_text, sizeof fault_text, "%s of %zu bytes at %#llx, which is not aligned", writes ? "a write" : "a read", bytes, at);
    (writes ? bytes_written : bytes_read) += bytes;
    auto& seen = writes ? last->second.written : last->second.read;
    if (seen.empty()) seen.resize(last->second.bytes / 32 + 1, 0u);
    unsigned& sector = seen[(at - last->first) / 32];
    if (sector != (unsigned)launch_number) {
        sector = (unsigned)launch_number;
        (writes ? sectors_written : sectors_read)++;
    }
}
static EmuApi api = {&context, barrier, warp, access_checked, printf, wait_until, fault};

// Kernels that touch memory that is not there end here.
static sigjmp_buf back;
static volatile sig_atomic_t is_in_kernel = 0;
static void segment_fault(int, siginfo_t*, void*) {
    if (is_in_kernel) siglongjmp(back, 1);
    signal(SIGSEGV, SIG_DFL);
}

// ----------------------------------------------------------------------------------------------------------------------------- kernels

struct Module {
    void* library;
    std::string path;
};
struct Function {
    std::string name;
    void (*call)(void**);
    void (*block)(void**);
    int parameters;
    bool waits;
    int shared_limit;
};

static CUresult launch(Function* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void** given) {
    static long long fails = number("EMU_FAIL_LAUNCH", -1), checks = number("EMU_CHECK", 0);
    static std::string fails_in = emu_setting("EMU_FAIL_KERNEL", "");
    if (!function) return INVALID_HANDLE;
    size_t threads = (size_t)bx * by * bz;
    if (!gx || !gy || !gz || gx > 2147483647u || gy > 65535 || gz > 65535 || threads == 0 || bx > 1024 || by > 1024 || bz > 64) return INVALID_VALUE;
    if (threads > 1024) return INVALID_VALUE;
    if ((int)shared > function->shared_limit || shared > SHARED) return INVALID_VALUE;
    launch_number++;
    if (launch_number == fails || (!fails_in.empty() && function->name.find(fails_in) != std::string::npos)) {
        note("fault", "%lld\t%s", launch_number, function->name.c_str());
        int error = (int)number("EMU_FAIL_WITH", LAUNCH_FAILED);
        // Memory that lacks is said at once, and the device goes on.
        if (error == OUT_OF_MEMORY) return error;
        sticky = error;
        // As on a device: the launch is accepted, and what comes after it hears of the fault.
        return emu_setting("EMU_FAIL_MODE", "later") == "now" ? (int)sticky : SUCCESS;
    }
    // As if a device had lost it: nothing is computed, and nobody hears of it.
    static std::string loses = emu_setting("EMU_LOSE_KERNEL", "");
    static long long to_lose = number("EMU_LOSE_LAUNCH", 1);
    if (!loses.empty() && function->name.find(loses) != std::string::npos && --to_lose == 0) {
        note("lost", "%lld\t%s", launch_number, function->name.c_str());
        return SUCCESS;
    }
    // Where each parameter that is an address points to: the place in its allocation and that allocation's bytes.
    static const bool tells_arguments = number("EMU_ARGUMENTS", 0) != 0;
    if (tells_arguments) {
        std::string text;
        for (int each = 0; each < function->parameters; each++) {
            CUdeviceptr address = *(CUdeviceptr*)given[each];
            auto found = allocation_of(address);
            char part[96];
            if (found == device_memory.end()) snprintf(part, sizeof part, "\t-");
            else snprintf(part, sizeof part, "\t%#llx+%llu of %zu", found->first, address - found->first, found->second.bytes);
            text += part;
        }
        note("arguments", "%s%s", function->name.c_str(), text.c_str());
    }
    double began = now();
    kernel_name = function->name.c_str();
    diverged_barriers = partial_warps = faults = 0;
    bytes_read = bytes_written = sectors_read = sectors_written = shared_bytes = 0;
    if (!shared_memory) shared_memory = (char*)mmap(nullptr, SHARED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    shared_in_use = shared;
    context.threads = {bx, by, bz};
    context.blocks = {gx, gy, gz};
    context.shared = shared_memory;
    entry = function->call;
    arguments = given;
    struct sigaction action = {}, before;
    action.sa_sigaction = segment_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    static char* signal_stack = (char*)malloc(1 << 16);
    stack_t alternative = {}, stack_before;
    alternative.ss_sp = signal_stack;
    alternative.ss_size = 1 << 16;
    sigaltstack(&alternative, &stack_before);
    sigaction(SIGSEGV, &action, &before);
    static std::string fill = emu_setting("EMU_FILL", "");
    CUresult result = SUCCESS;
    if (sigsetjmp(back, 1) == 0) {
        is_in_kernel = 1;
        if (!skips)
            for (unsigned z = 0; z < gz; z++)
                for (unsigned y = 0; y < gy; y++)
                    for (unsigned x = 0; x < gx; x++) {
                        context.block = {x, y, z};
                        context.serial++;
                        // A block finds in shared memory what another left there.
                        if (!fill.empty() && shared) memset(shared_memory, (int)strtol(fill.c_str(), nullptr, 16), shared);
                        if (function->waits) run_block((unsigned)threads); else function->block(given);
                    }
    } else {
        fprintf(stderr, "emulator: %s touched memory that is not there, in block %u,%u,%u, thread %u,%u,%u\n", kernel_name, context.block.x, context.block.y, context.block.z, context.thread.x, context.thread.y, context.thread.z);
        sticky = result = ILLEGAL_ADDRESS;
    }
    is_in_kernel = 0;
    sigaction(SIGSEGV, &before, nullptr);
    sigaltstack(&stack_before, nullptr);
    if (diverged_barriers) fprintf(stderr, "emulator: %s: threads of a block waited at different barriers, %lld times\n", kernel_name, diverged_barriers);
    if (partial_warps && reports_partial_warps) fprintf(stderr, "emulator: %s: part of a warp was at an operation of warps, %lld times\n", kernel_name, partial_warps);
    if (is_stuck) {
        fprintf(stderr, "emulator: %s: threads wait for what never comes, in block %u,%u,%u\n", kernel_name, context.block.x, context.block.y, context.block.z);
        is_stuck = false;
        sticky = result = LAUNCH_TIMEOUT;
    }
    if (faults) {
        fprintf(stderr, "emulator: %s, launch %lld: %s (%lld such)\n", kernel_name, launch_number, fault_text, faults);
        if (checks > 1) sticky = result = ILLEGAL_ADDRESS;
    }
    note("launch", "%lld\t%s\t%ux%ux%u\t%ux%ux%u\t%u\t%.0f\t%lld\t%lld\t%lld\t%lld\t%lld", launch_number, kernel_name, gx, gy, gz, bx, by, bz, shared, (now() - began) * 1e6, bytes_read, bytes_written, sectors_read * 32, sectors_written * 32, shared_bytes);
    return result;
}

// -------------------------------------------------------------------------------------------------------------------------- the driver

struct Event { double when; };
static int major_version() { return (int)(number("EMU_CAPABILITY", 80) / 10); }
static int minor_version() { return (int)(number("EMU_CAPABILITY", 80) % 10); }
static int the_context, the_stream_count;
static thread_local void* current_context = nullptr;

extern "C" {
CUresult cuInit(unsigned) {
    Lock lock(mutex);
    int said = (int)number("EMU_INIT", SUCCESS);
    if (said != SUCCESS) return said;
    if (number("EMU_DEVICES", 1) == 0) return NO_DEVICE;
    reports_partial_warps = number("EMU_REPORT_WARPS", 0) != 0;
    is_initialized = true;
    return SUCCESS;
}
CUresult cuDriverGetVersion(int* version) { return *version = (int)number("EMU_DRIVER_VERSION", 12090), SUCCESS; }
CUresult cuGetErrorName(int error, const char** name) { return *name = error_of(error).name, SUCCESS; }
CUresult cuGetErrorString(int error, const char** text) { return *text = error_of(error).text, SUCCESS; }
CUresult cuDeviceGetCount(int* count) { ENTER; return *count = (int)number("EMU_DEVICES", 1), SUCCESS; }
CUresult cuDeviceGet(int* device, int index) { ENTER; if (index < 0 || index >= number("EMU_DEVICES", 1)) return INVALID_DEVICE; return *device = index, SUCCESS; }
CUresult cuDeviceGetName(char* name, int size, int) { ENTER; return snprintf(name, size, "%s", emu_setting("EMU_NAME", "Emulated").c_str()), SUCCESS; }
CUresult cuDeviceGetUuid(char* uuid, int) { return memset(uuid, 7, 16), SUCCESS; }
CUresult cuDeviceGetUuid_v2(char* uuid, int) { return memset(uuid, 7, 16), SUCCESS; }
CUresult cuDeviceGetLuid(char* luid, unsigned* mask, int) { return memset(luid, 0, 8), *mask = 1, SUCCESS; }
CUresult cuDeviceGetPCIBusId(char* id, int size, int) { ENTER; return snprintf(id, size, "0000:01:00.0"), SUCCESS; }
CUresult cuDeviceTotalMem_v2(size_t* bytes, int) { ENTER; return *bytes = memory_limit(), SUCCESS; }
CUresult cuDeviceGetAttribute(int* value, int attribute, int) {
    ENTER;
    switch (attribute) {
    case 1: *value = 1024; break;             // threads of a block
    case 2: case 3: *value = 1024; break;     // a block's x and y
    case 4: *value = 64; break;
    case 5: *value = 2147483647; break;       // a grid's x, y, z
    case 6: case 7: *value = 65535; break;
    case 8: *value = 48 << 10; break;         // shared memory of a block
    case 10: *value = 32; break;              // warp
    case 12: *value = 65536; break;           // registers of a block
    case 13: *value = 1500000; break;         // kHz
    case 16: *value = (int)number("EMU_MULTIPROCESSORS", 108); break;
    case 36: *value = 1500000; break;
    case 37: *value = 5120; break;            // bits of the memory's bus
    case 38: *value = 40 << 20; break;        // L2
    case 39: *value = 2048; break;            // threads of a multiprocessor
    case 75: *value = major_version(); break;
    case 76: *value = minor_version(); break;
    case 81: *value = 164 << 10; break;       // shared memory of a multiprocessor
    case 82: *value = 65536; break;
    case 97: *value = (int)number("EMU_SHARED", major_version() >= 9 ? 227 << 10 : major_version() == 8 ? (minor_version() == 0 ? 163 << 10 : 99 << 10) : 64 << 10); break;
    case 115: *value = 1; break;              // memory pools
    default: *value = 0;
    }
    return SUCCESS;
}
CUresult cuDeviceGetDefaultMemPool(void** pool, int) { return *pool = &the_context, SUCCESS; }
CUresult cuDeviceGetMemPool(void** pool, int) { return *pool = &the_context, SUCCESS; }
CUresult cuDevicePrimaryCtxRetain(void** out, int) { ENTER; return *out = &the_context, SUCCESS; }
CUresult cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
CUresult cuDevicePrimaryCtxReset_v2(int) { return SUCCESS; }
CUresult cuDevicePrimaryCtxSetFlags_v2(int, unsigned) { return SUCCESS; }
CUresult cuCtxSetCurrent(void* given) { Lock lock(mutex); current_context = given; return SUCCESS; }
CUresult cuCtxGetCurrent(void** out) { return *out = current_context, SUCCESS; }
CUresult cuCtxGetDevice(int* device) { return *device = 0, SUCCESS; }
CUresult cuCtxSynchronize() { ENTER; note("sync", "context"); return SUCCESS; }
CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) { *least = 0, *greatest = -5; return SUCCESS; }

CUresult cuStreamCreate(void** out, unsigned) { ENTER; note("stream"); return *out = new int(++the_stream_count), SUCCESS; }
CUresult cuStreamCreateWithPriority(void** out, unsigned, int) { return cuStreamCreate(out, 0); }
CUresult cuStreamDestroy_v2(void*) { return SUCCESS; }
CUresult cuStreamSynchronize(void*) { ENTER; note("sync", "stream"); return SUCCESS; }
CUresult cuStreamQuery(void*) { ENTER; return SUCCESS; }
CUresult cuStreamWaitEvent(void*, void*, unsigned) { ENTER; note("wait-event"); return SUCCESS; }
CUresult cuEventCreate(void** out, unsigned) { ENTER; note("event-create"); return *out = new Event{0}, SUCCESS; }
CUresult cuEventDestroy_v2(void* event) { delete (Event*)event; return SUCCESS; }
CUresult cuEventRecord(void* event, void*) { ENTER; note("event-record"); return ((Event*)event)->when = now(), SUCCESS; }
CUresult cuEventQuery(void*) { ENTER; return SUCCESS; }
CUresult cuEventSynchronize(void*) { ENTER; note("sync", "event"); return SUCCESS; }
CUresult cuEventElapsedTime(float* ms, void* from, void* to) { ENTER; return *ms = (float)((((Event*)to)->when - ((Event*)from)->when) * 1e3), SUCCESS; }
CUresult cuEventElapsedTime_v2(float* ms, void* from, void* to) { return cuEventElapsedTime(ms, from, to); }

CUresult cuMemAlloc_v2(CUdeviceptr* out, size_t bytes) { ENTER; return allocate(out, bytes, "sync"); }
CUresult cuMemAllocAsync(CUdeviceptr* out, size_t bytes, void*) { ENTER; return allocate(out, bytes, "async"); }
CUresult cuMemFree_v2(CUdeviceptr address) { ENTER; return release(address); }
CUresult cuMemFreeAsync(CUdeviceptr address, void*) { ENTER; return release(address); }
CUresult cuMemGetInfo_v2(size_t* free, size_t* total) { ENTER; *free = memory_limit() - device_used, *total = memory_limit(); return SUCCESS; }
CUresult cuMemAllocHost_v2(void** out, size_t bytes) {
    ENTER;
    note("alloc-host", "%zu", bytes);
    *out = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    host_memory[*out] = bytes;
    return SUCCESS;
}
CUresult cuMemHostAlloc(void** out, size_t bytes, unsigned) { return cuMemAllocHost_v2(out, bytes); }
CUresult cuMemFreeHost(void* address) {
    Lock lock(mutex);
    note("free-host");
    host_memory.erase(address);
    free(address);
    return SUCCESS;
}
CUresult cuMemHostRegister_v2(void*, size_t, unsigned) { return SUCCESS; }
CUresult cuMemHostUnregister(void*) { return SUCCESS; }

static bool is_pinned(const void* address) {
    auto after = host_memory.upper_bound((void*)address);
    if (after == host_memory.begin()) return false;
    --after;
    return (char*)address < (char*)after->first + after->second;
}
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, void*) {
    ENTER;
    note("htod", "%zu\t%s", bytes, is_pinned(from) ? "pinned" : "pageable");
    if (!is_device(to, bytes)) return INVALID_VALUE;
    if (!skips) memcpy((void*)to, from, bytes);
    return SUCCESS;
}
CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, void*) {
    ENTER;
    note("dtoh", "%zu\t%s", bytes, is_pinned(to) ? "pinned" : "pageable");
    if (!is_device(from, bytes)) return INVALID_VALUE;
    if (skips) memset(to, 0, bytes); else memcpy(to, (void*)from, bytes);
    return SUCCESS;
}
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, void*) {
    ENTER;
    note("dtod", "%zu", bytes);
    if (!is_device(to, bytes) || !is_device(from, bytes)) return INVALID_VALUE;
    if (!skips) memmove((void*)to, (void*)from, bytes);
    return SUCCESS;
}
CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) { return cuMemcpyHtoDAsync_v2(to, from, bytes, nullptr); }
CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) { return cuMemcpyDtoHAsync_v2(to, from, bytes, nullptr); }
CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) { return cuMemcpyDtoDAsync_v2(to, from, bytes, nullptr); }
struct Copy2D {
    size_t src_x, src_y; int src_type; const void* src_host; CUdeviceptr src_device; void* src_array; size_t src_pitch;
    size_t dst_x, dst_y; int dst_type; void* dst_host; CUdeviceptr dst_device; void* dst_array; size_t dst_pitch;
    size_t width, height;
};
CUresult cuMemcpy2DAsync_v2(const Copy2D* copy, void*) {
    ENTER;
    const char* from = copy->src_type == 1 ? (const char*)copy->src_host : (const char*)copy->src_device;
    char* to = copy->dst_type == 1 ? (char*)copy->dst_host : (char*)copy->dst_device;
    note(copy->src_type == 1 ? "htod" : copy->dst_type == 1 ? "dtoh" : "dtod", "%zu\t2d", copy->width * copy->height);
    if (copy->src_pitch < copy->width || copy->dst_pitch < copy->width) return INVALID_VALUE;
    if (skips) return SUCCESS;
    for (size_t row = 0; row < copy->height; row++)
        memcpy(to + (copy->dst_y + row) * copy->dst_pitch + copy->dst_x, from + (copy->src_y + row) * copy->src_pitch + copy->src_x, copy->width);
    return SUCCESS;
}
CUresult cuMemcpy2D_v2(const Copy2D* copy) { return cuMemcpy2DAsync_v2(copy, nullptr); }
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, void*) { ENTER; note("memset", "%zu", count); return memset((void*)to, value, count), SUCCESS; }
CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t count) { return cuMemsetD8Async(to, value, count, nullptr); }

// What a driver does not load, https://docs.nvidia.com/deploy/cuda-compatibility/: PTX of a newer toolkit, if only by a minor version;
// machine code of a newer major version; what was made for another generation, or for a later card of this one.
static CUresult refusal(const Image& image) {
    int driver = 0, capability = (int)number("EMU_CAPABILITY", 80);
    cuDriverGetVersion(&driver);
    if (image.is_ptx && image.toolkit > driver) return UNSUPPORTED_PTX_VERSION;
    if (image.toolkit / 1000 > driver / 1000) return INVALID_IMAGE;
    bool fits = image.is_specific ? image.architecture == capability : image.architecture <= capability && (image.is_ptx || image.architecture / 10 == capability / 10);
    return fits ? SUCCESS : NO_BINARY_FOR_GPU;
}
CUresult cuModuleLoadData(void** out, const void* image) {
    ENTER;
    Image read;
    if (!emu_read(image, read)) {
        fprintf(stderr, "emulator: what is to be loaded does not come from the emulator's NVRTC; is another cache of kernels needed?\n");
        return INVALID_IMAGE;
    }
    CUresult refused = refusal(read);
    if (refused) return refused;
    if (skips) return *out = new Module{nullptr, ""}, SUCCESS;
    std::string log, path = emu_compile(read.source, log);
    if (path.empty()) return fprintf(stderr, "emulator: %s\n", log.c_str()), INVALID_IMAGE;
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) return fprintf(stderr, "emulator: %s\n", dlerror()), INVALID_IMAGE;
    ((void (*)(const EmuApi*))dlsym(library, "__emu_start"))(&api);
    *out = new Module{library, path};
    return SUCCESS;
}
CUresult cuModuleLoadDataEx(void** out, const void* image, unsigned, int*, void**) { return cuModuleLoadData(out, image); }
CUresult cuModuleUnload(void*) { return SUCCESS; }
CUresult cuModuleGetFunction(void** out, void* module, const char* name) {
    ENTER;
    void* library = ((Module*)module)->library;
    if (!library) return *out = new Function{name, nullptr, nullptr, 0, false, 48 << 10}, SUCCESS;
    auto symbol = [&](const char* prefix) { return dlsym(library, (std::string(prefix) + name).c_str()); };
    void* call = symbol("__emu_call_");
    if (!call) return NOT_FOUND;
    *out = new Function{name, (void (*)(void**))call, (void (*)(void**))symbol("__emu_block_"), ((int (*)())symbol("__emu_parameters_"))(), *(int*)symbol("__emu_waits_") != 0, 48 << 10};
    note("module", "%s\t%s", name, ((Module*)module)->path.c_str());
    return SUCCESS;
}
CUresult cuFuncSetAttribute(void* function, int attribute, int value) {
    ENTER;
    if (attribute != 8) return SUCCESS;
    int most = 0;
    cuDeviceGetAttribute(&most, 97, 0);
    if (value > most) return INVALID_VALUE;
    if (value > ((Function*)function)->shared_limit) ((Function*)function)->shared_limit = value;
    return SUCCESS;
}
CUresult cuFuncGetAttribute(int* value, int, void*) { return *value = 0, SUCCESS; }
CUresult cuFuncSetCacheConfig(void*, int) { return SUCCESS; }
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void*, int threads, size_t) { return *blocks = threads ? 2048 / threads : 0, SUCCESS; }
CUresult cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void*, void** given, void**) {
    ENTER;
    return launch((Function*)function, gx, gy, gz, bx, by, bz, shared, given);
}
struct LaunchConfig { unsigned gx, gy, gz, bx, by, bz, shared; void* stream; void* attributes; unsigned count; };
CUresult cuLaunchKernelEx(const LaunchConfig* c, void* function, void** given, void**) {
    ENTER;
    return launch((Function*)function, c->gx, c->gy, c->gz, c->bx, c->by, c->bz, c->shared, given);
}

// In what a kernel reads: include/cuda/barrier.
struct TensorMap {
    unsigned long long address, strides[4];
    unsigned dims[5];
    unsigned short box[5];
    unsigned char rank, element_bytes, swizzle, fills_nan;
};
CUresult cuTensorMapEncodeTiled(void* out, int type, unsigned rank, void* address, const unsigned long long* dims, const unsigned long long* strides, const unsigned* box, const unsigned* steps, int interleave, int swizzle, int, int fill) {
    static const unsigned char BYTES[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};
    ENTER;
    if (major_version() < 9 || interleave || swizzle > 3) return NOT_SUPPORTED;
    if (rank < 1 || rank > 5 || (size_t)type >= sizeof BYTES || (size_t)address % 16) return INVALID_VALUE;
    TensorMap map = {};
    map.address = (unsigned long long)address;
    map.rank = rank, map.element_bytes = BYTES[type], map.swizzle = swizzle, map.fills_nan = fill;
    for (unsigned d = 0; d < rank; d++) {
        if (!dims[d] || dims[d] > 1ull << 32 || !box[d] || box[d] > 256 || steps[d] != 1) return INVALID_VALUE;
        if (d && strides[d - 1] % 16) return INVALID_VALUE;
        map.dims[d] = (unsigned)dims[d], map.box[d] = (unsigned short)box[d];
        if (d) map.strides[d - 1] = strides[d - 1];
    }
    size_t row = (size_t)box[0] * BYTES[type];
    if (row % 16 || (swizzle && row > 16u << swizzle)) return INVALID_VALUE;
    note("tensor-map", "%u", rank);
    memset(out, 0, 128);
    memcpy(out, &map, sizeof map);
    return SUCCESS;
}

// What is not emulated says so.
#define NOT_EMULATED(name) \
    CUresult name() { return fprintf(stderr, "emulator: %s is not emulated\n", #name), NOT_SUPPORTED; }
NOT_EMULATED(cuTensorMapEncodeIm2col) NOT_EMULATED(cuTensorMapEncodeIm2colWide)
NOT_EMULATED(cuStreamBeginCapture_v2) NOT_EMULATED(cuStreamEndCapture) NOT_EMULATED(cuGraphDestroy) NOT_EMULATED(cuGraphExecDestroy)
NOT_EMULATED(cuGraphGetNodes) NOT_EMULATED(cuGraphInstantiateWithFlags) NOT_EMULATED(cuGraphLaunch) NOT_EMULATED(cuGraphNodeGetType)
NOT_EMULATED(cuGraphUpload) NOT_EMULATED(cuMemcpyPeerAsync) NOT_EMULATED(cuLaunchHostFunc)
}

// What the whole run came to.
struct AtEnd {
    ~AtEnd() { if (log_file()) note("end", "peak\t%zu\tlaunches\t%lld", device_peak, launch_number); }
};
static AtEnd at_end;
