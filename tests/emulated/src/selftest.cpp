// Kernels in the manner of cubecl's, of which the results are known. `build.sh test` compiles and runs it.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

extern "C" {
int cuInit(unsigned);
int cuMemAlloc_v2(unsigned long long*, size_t);
int cuMemFree_v2(unsigned long long);
int cuMemcpyHtoD_v2(unsigned long long, const void*, size_t);
int cuMemcpyDtoH_v2(void*, unsigned long long, size_t);
int cuModuleLoadData(void**, const void*);
int cuModuleGetFunction(void**, void*, const char*);
int cuFuncSetAttribute(void*, int, int);
int cuLaunchKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);
int nvrtcCreateProgram(void**, const char*, const char*, int, const char* const*, const char* const*);
int nvrtcCompileProgram(void*, int, const char* const*);
int nvrtcGetPTXSize(void*, size_t*);
int nvrtcGetPTX(void*, char*);
int nvrtcGetCUBINSize(void*, size_t*);
int nvrtcGetCUBIN(void*, char*);
int nvrtcGetNumSupportedArchs(int*);
int nvrtcGetSupportedArchs(int*);
int nvrtcDestroyProgram(void**);
int cuTensorMapEncodeTiled(void*, int, unsigned, void*, const unsigned long long*, const unsigned long long*, const unsigned*, const unsigned*, int, int, int, int);
int nvrtcGetProgramLogSize(void*, size_t*);
int nvrtcGetProgramLog(void*, char*);
}

static int failures = 0;
#define CHECK(what) \
    do { if (!(what)) { printf("failed, line %d: %s\n", __LINE__, #what); failures++; } } while (0)

static const char* HEAD = R"(
typedef unsigned int uint32_t; typedef unsigned char uint8_t; typedef unsigned short uint16_t; typedef unsigned long long int uint64_t;
typedef signed char int8_t; typedef signed short int16_t; typedef signed int int32_t; typedef signed long long int int64_t;
template <typename T, size_t N> struct array { T data[N]; __device__ T& operator[](size_t i) { return data[i]; } };
template <typename T> __device__ uint16_t __emu_bits(float x) { T narrow = T(x); return reinterpret_cast<uint16_t&>(narrow); }
__device__ uint8_t __emu_byte(float x) { return uint8_t(int32_t(x)); }
)";

static std::string made, said;

// Compiles into `made`, PTX or machine code, with the compiler's log in `said`; returns NVRTC's status.
static int compile(const std::string& source, const std::string& architecture, bool to_ptx = false, bool has_headers = true) {
    void* program;
    std::string include = std::string("--include-path=") + getenv("CUDA_PATH") + (has_headers ? "/include" : "/src"), target = "--gpu-architecture=" + architecture;
    const char* options[] = {target.c_str(), "-lineinfo", include.c_str()};
    nvrtcCreateProgram(&program, (HEAD + source).c_str(), nullptr, 0, nullptr, nullptr);
    int status = nvrtcCompileProgram(program, 3, options);
    size_t size;
    nvrtcGetProgramLogSize(program, &size);
    said.resize(size);
    nvrtcGetProgramLog(program, &said[0]);
    (to_ptx ? nvrtcGetPTXSize : nvrtcGetCUBINSize)(program, &size);
    made.assign(size, 0);
    if (size) (to_ptx ? nvrtcGetPTX : nvrtcGetCUBIN)(program, &made[0]);
    nvrtcDestroyProgram(&program);
    return status;
}
static void* kernel(const std::string& source, const char* name) {
    void *module, *function;
    const char* capability = getenv("EMU_CAPABILITY");
    if (compile(source, std::string("sm_") + (capability ? capability : "80")) != 0) {
        printf("%s does not compile:\n%s\n", name, said.c_str());
        exit(1);
    }
    if (cuModuleLoadData(&module, made.data()) != 0 || cuModuleGetFunction(&function, module, name) != 0) {
        printf("%s does not load\n", name);
        exit(1);
    }
    return function;
}

template <class T> struct Buffer {
    unsigned long long at = 0;
    size_t count;
    Buffer(std::vector<T> numbers) : count(numbers.size()) {
        cuMemAlloc_v2(&at, count * sizeof(T));
        cuMemcpyHtoD_v2(at, numbers.data(), count * sizeof(T));
    }
    std::vector<T> read() {
        std::vector<T> out(count);
        cuMemcpyDtoH_v2(out.data(), at, count * sizeof(T));
        return out;
    }
};

static int launch(void* function, unsigned blocks, unsigned threads, unsigned shared, std::vector<void*> given) {
    cuFuncSetAttribute(function, 8, (int)shared);
    return cuLaunchKernel(function, blocks, 1, 1, threads, 1, 1, shared, nullptr, given.data(), nullptr);
}

// mma.sync with fragments filled by the layout that the PTX ISA gives, against a plain product.
static void check_mma(const char* type, const char* sum, int k, const char* load) {
    int left = k * 16 / 32, right = k * 8 / 32, each = std::string(type) == "tf32" ? 1 : std::string(type) == "s8" ? 4 : 2;
    std::string source = std::string("#include <mma.h>\n#include <cuda_fp16.h>\n#include <cuda_bf16.h>\n") + "typedef " + sum + " Sum;\nstruct regs_4 { uint32_t i_0; uint32_t i_1; uint32_t i_2; uint32_t i_3; };\nstruct alignas(16) sums_4 { Sum i_0; Sum i_1; Sum i_2; Sum i_3; };\n" + R"(
extern "C" __global__ void __launch_bounds__(32)  product(float const* const __restrict__ buffer_0, float const* const __restrict__ buffer_1, float * const __restrict__ buffer_2) {
uint32_t const g = threadIdx.x / 4, t = threadIdx.x % 4;
uint32_t a[4] = {}, b[4] = {};
)";
    char line[512];
    // By the tables of the ISA: each register and each number in it has its row and column.
    for (int r = 0; r < left / each; r++)
        for (int e = 0; e < each; e++) {
            snprintf(line, sizeof line, "a[%d] |= uint32_t(%s(buffer_0[(g + %d) * %d + t * %d + %d])) << %d;\n", r, load, r % 2 * 8, k, each, e + r / 2 * 4 * each, 32 / each * e);
            source += line;
        }
    for (int r = 0; r < right / each; r++)
        for (int e = 0; e < each; e++) {
            snprintf(line, sizeof line, "b[%d] |= uint32_t(%s(buffer_1[(t * %d + %d) * 8 + g])) << %d;\n", r, load, each, e + r * 4 * each, 32 / each * e);
            source += line;
        }
    std::string lefts, rights, inputs;
    int at = 4;
    auto operand = [&](std::string& list, const std::string& constraint, const std::string& name) {
        list += (list.empty() ? "%" : ", %") + std::to_string(at++);
        inputs += (inputs.empty() ? "\"" : ", \"") + constraint + "\"(" + name + ")";
    };
    for (int r = 0; r < left / each; r++) operand(lefts, "r", "l_1.i_" + std::to_string(r));
    for (int r = 0; r < right / each; r++) operand(rights, "r", "l_2.i_" + std::to_string(r));
    std::string c = std::string(sum) == "float" ? "f" : "r", kind = c == "f" ? "f32" : "s32", sums;
    for (int r = 0; r < 4; r++) operand(sums, c, "l_3.i_" + std::to_string(r));
    source += "regs_4 const l_1 = regs_4{a[0], a[1], a[2], a[3]};\nregs_4 const l_2 = regs_4{b[0], b[1], b[2], b[3]};\nsums_4 const l_3 = sums_4{Sum(1), Sum(2), Sum(3), Sum(4)};\nsums_4 const l_4 = [&]{\nsums_4 result;\nasm volatile(\"mma.sync.aligned.m16n8k" + std::to_string(k) + ".row.col." + kind + "." + type + "." + type + "." + kind + " {%0, %1, %2, %3}, {" + lefts + "}, {" + rights + "}, {" + sums + "};\" : \"=" + c + "\"(result.i_0), \"=" + c + "\"(result.i_1), \"=" + c + "\"(result.i_2), \"=" + c + "\"(result.i_3) : " + inputs + " );\nreturn result;\n}();\n";
    source += "buffer_2[g * 8 + t * 2] = l_4.i_0;\nbuffer_2[g * 8 + t * 2 + 1] = l_4.i_1;\nbuffer_2[(g + 8) * 8 + t * 2] = l_4.i_2;\nbuffer_2[(g + 8) * 8 + t * 2 + 1] = l_4.i_3;\n}";
    void* product = kernel(source, "product");
    std::vector<float> a(16 * k), b(k * 8);
    for (size_t i = 0; i < a.size(); i++) a[i] = (float)(i * 5 % 11) - 5;
    for (size_t i = 0; i < b.size(); i++) b[i] = (float)(i * 3 % 7) - 3;
    Buffer<float> from(a), with(b), to(std::vector<float>(128, -1.f));
    CHECK(launch(product, 1, 32, 0, {&from.at, &with.at, &to.at}) == 0);
    auto out = to.read();
    int wrong = 0;
    for (int row = 0; row < 16; row++)
        for (int column = 0; column < 8; column++) {
            float expected = 1 + column % 2 + row / 8 * 2;
            for (int depth = 0; depth < k; depth++) expected += a[row * k + depth] * b[depth * 8 + column];
            wrong += out[row * 8 + column] != expected;
        }
    if (wrong) printf("mma.sync m16n8k%d of %s: %d of 128 sums are wrong\n", k, type, wrong);
    CHECK(wrong == 0);
}

// Matrices of 8 x 8 from shared memory to registers and back, both turned where the other is.
static void check_matrices(int count, bool transposed) {
    std::string n = std::to_string(count), trans = transposed ? ".trans" : "", loads, outs, stores, ins;
    for (int r = 0; r < count; r++) {
        std::string i = std::to_string(r), name = "i_" + i;
        loads += (r ? ", %" : "%") + i, outs += (r ? ", \"=r\"(result." : "\"=r\"(result.") + name + ")";
        stores += (r ? ", %" : "%") + std::to_string(r + 1), ins += ", \"r\"(got." + name + ")";
    }
    std::string source = R"(
struct regs_4 { uint32_t i_0; uint32_t i_1; uint32_t i_2; uint32_t i_3; };
extern "C" __global__ void __launch_bounds__(32)  matrices(uint32_t * const __restrict__ buffer_0, uint16_t * const __restrict__ buffer_1) {
extern __shared__ __align__(128) char value_1[];
uint16_t * const tile = reinterpret_cast<uint16_t *>(&value_1[0]);
uint16_t * const back = reinterpret_cast<uint16_t *>(&value_1[512]);
for(uint32_t i = threadIdx.x; i < 256; i += 32) { tile[i] = i; back[i] = 999; }
__syncwarp();
uint32_t const row = __cvta_generic_to_shared(&tile[threadIdx.x * 8]);
uint32_t const there = __cvta_generic_to_shared(&back[threadIdx.x * 8]);
regs_4 const got = [&]{
regs_4 result;
asm volatile("ldmatrix.sync.aligned.m8n8.x)" + n + trans + ".shared::cta.b16 {" + loads + "}, [%" + n + "];\" : " + outs + " : \"r\"(row) : \"memory\");\nreturn result;\n}();\n";
    source += "asm volatile(\"stmatrix.sync.aligned.m8n8.x" + n + trans + ".shared::cta.b16 [%0], {" + stores + "};\" :  : \"r\"(there)" + ins + " : \"memory\");\n__syncwarp();\n";
    for (int r = 0; r < count; r++) source += "buffer_0[" + std::to_string(r) + " * 32 + threadIdx.x] = got.i_" + std::to_string(r) + ";\n";
    source += "for(uint32_t i = threadIdx.x; i < 256; i += 32) { buffer_1[i] = back[i]; }\n}";
    void* matrices = kernel(source, "matrices");
    Buffer<unsigned> to(std::vector<unsigned>(128, 7));
    Buffer<unsigned short> round(std::vector<unsigned short>(256, 7));
    CHECK(launch(matrices, 1, 32, 1024, {&to.at, &round.at}) == 0);
    auto out = to.read();
    auto back = round.read();
    int wrong = 0;
    for (int m = 0; m < count; m++)
        for (int lane = 0; lane < 32; lane++) {
            unsigned row = lane / 4, column = lane % 4 * 2, base = m * 64;
            unsigned low = transposed ? base + column * 8 + row : base + row * 8 + column, high = transposed ? low + 8 : low + 1;
            wrong += out[m * 32 + lane] != (low | high << 16);
        }
    for (int i = 0; i < 256; i++) wrong += back[i] != (i < count * 64 ? i : 999);
    CHECK(wrong == 0);
}

// Copies that go on while their thread does, and land when it waits: by cp.async, by memcpy_async of one thread and of all.
static void check_copies() {
    const char* head = R"(
#include <cuda/barrier>
#include <cooperative_groups.h>
#include <cooperative_groups/memcpy_async.h>
extern "C" __global__ void __launch_bounds__(64)  copies(float const* const __restrict__ buffer_0, float * const __restrict__ buffer_1) {
extern __shared__ __align__(128) char value_1[];
float * const tile = reinterpret_cast<float *>(&value_1[0]);
cuda::barrier<cuda::thread_scope_block> * const bar = reinterpret_cast<cuda::barrier<cuda::thread_scope_block> *>(&value_1[2048]);
if(threadIdx.x == 0) { init(bar, 64); }
for(uint32_t i = threadIdx.x; i < 256; i += 64) { tile[i] = -7.0; }
__syncthreads();
for(uint32_t round = 0; round < 2; round += 1) {
)";
    const char* tail = R"(
buffer_1[round * 512 + threadIdx.x] = tile[threadIdx.x * 4];
COMMIT
bar->arrive_and_wait();
uint32_t const together = __popc(__activemask());
for(uint32_t i = threadIdx.x; i < 256; i += 64) { buffer_1[round * 512 + 256 + i] = tile[i] + float(32 - together); }
__syncthreads();
}
})";
    struct { const char *copy, *commit; bool is_short; } ways[] = {
        {R"(uint32_t const to = __cvta_generic_to_shared(&tile[threadIdx.x * 4]);
asm volatile("cp.async.cg.shared::cta.global [%0], [%1], 16, 16;" :  : "r"(to), "l"((&buffer_0[round * 256 + threadIdx.x * 4])) : "memory");)",
         R"(uint32_t const handle = __cvta_generic_to_shared(cuda::device::barrier_native_handle(*bar));
asm volatile("cp.async.mbarrier.arrive.shared::cta.b64 [%0];" :  : "r"(handle) : "memory");)", false},
        {R"(uint32_t const to = __cvta_generic_to_shared(&tile[threadIdx.x * 4]);
uint64_t const bytes = threadIdx.x % 2 * 16;
asm volatile("cp.async.cg.shared::cta.global [%0], [%1], 16, %2;" :  : "r"(to), "l"(&buffer_0[round * 256 + threadIdx.x * 4]), "l"(bytes) : "memory");)",
         R"(uint32_t const handle = __cvta_generic_to_shared(cuda::device::barrier_native_handle(*bar));
asm volatile("cp.async.mbarrier.arrive.shared::cta.b64 [%0];" :  : "r"(handle) : "memory");)", true},
        {"cuda::memcpy_async(&tile[threadIdx.x * 4], &buffer_0[round * 256 + threadIdx.x * 4], 4 * 4, *bar);", "", false},
        {"cuda::memcpy_async(cooperative_groups::this_thread_block(), &tile[0], &buffer_0[round * 256], 256 * 4, *bar);", "", false},
        {"if(threadIdx.x == 0) { cuda::device::barrier_expect_tx(*bar, 1024); cuda::device::memcpy_async_tx(&tile[0], &buffer_0[round * 256], 256 * 4, *bar); }", "", false},
    };
    for (const auto& way : ways) {
        std::string rest = tail;
        rest.replace(rest.find("COMMIT"), 6, way.commit);
        void* copies = kernel(std::string(head) + way.copy + rest, "copies");
        std::vector<float> numbers(512);
        for (int i = 0; i < 512; i++) numbers[i] = (float)i;
        Buffer<float> from(numbers), to(std::vector<float>(1024, -1.f));
        CHECK(launch(copies, 2, 64, 4096, {&from.at, &to.at}) == 0);
        auto out = to.read();
        int early = 0, wrong = 0;
        for (int round = 0; round < 2; round++)
            for (int i = 0; i < 256; i++) {
                bool is_there = !way.is_short || i / 4 % 2;
                wrong += out[round * 512 + 256 + i] != (is_there ? numbers[round * 256 + i] : 0);
                // Before it waits, a thread finds what was there: -7 at first.
                if (round == 0 && i < 64) early += out[i] != -7;
            }
        if (early || wrong) printf("%s: %d come early, %d are wrong\n", way.copy, early, wrong);
        CHECK(early == 0 && wrong == 0);
    }
}

// A box of a matrix by a tensor map, beyond its end too, in each order of 16 bytes.
static void check_tensor_map() {
    setenv("EMU_CAPABILITY", "90", 1);
    for (int swizzle = 0; swizzle < 4; swizzle++) {
        void* box = kernel(R"(
#include <cuda/barrier>
typedef struct CUtensorMap_st { alignas(128) unsigned long long int opaque[16]; } CUtensorMap;
extern "C" __global__ void __launch_bounds__(32)  box(float * const __restrict__ buffer_0, __grid_constant__ CUtensorMap const tensor_map_0, __grid_constant__ uint32_t const columns) {
extern __shared__ __align__(1024) char value_1[];
float * const tile = reinterpret_cast<float *>(&value_1[0]);
cuda::barrier<cuda::thread_scope_block> * const bar = reinterpret_cast<cuda::barrier<cuda::thread_scope_block> *>(&value_1[8192]);
if(threadIdx.x == 0) { init(bar, 32); }
__syncthreads();
if(threadIdx.x == 0) { cuda::device::experimental::cp_async_bulk_tensor_2d_global_to_shared(&tile[0], &tensor_map_0, 4, 6, *bar); }
cuda::barrier<cuda::thread_scope_block>::arrival_token token = threadIdx.x == 0 ? cuda::device::barrier_arrive_tx(*bar, 1, columns * 8 * 4) : bar->arrive();
bar->wait(std::move(token));
for(uint32_t i = threadIdx.x; i < 256; i += 32) { buffer_0[i] = tile[i]; }
})", "box");
        unsigned columns = swizzle ? 4 << swizzle : 8;
        std::vector<float> numbers(12 * 40);
        for (size_t i = 0; i < numbers.size(); i++) numbers[i] = (float)i;
        Buffer<float> from(numbers), to(std::vector<float>(256, -1.f));
        alignas(128) char map[128];
        unsigned long long dims[] = {36, 12}, strides[] = {160};
        unsigned sizes[] = {columns, 8}, steps[] = {1, 1};
        CHECK(cuTensorMapEncodeTiled(map, 7, 2, (void*)from.at, dims, strides, sizes, steps, 0, swizzle, 0, 0) == 0);
        CHECK(launch(box, 1, 32, 16384, {&to.at, map, &columns}) == 0);
        auto out = to.read();
        int wrong = 0;
        for (unsigned row = 0; row < 8; row++)
            for (unsigned column = 0; column < columns; column++) {
                unsigned place = (row * columns + column) * 4;
                place ^= (place >> 7 & ((1u << swizzle) - 1)) << 4;
                float expected = row + 6 < 12 && column + 4 < 36 ? numbers[(row + 6) * 40 + column + 4] : 0;
                wrong += out[place / 4] != expected;
            }
        CHECK(wrong == 0);
        strides[0] = 120;
        CHECK(cuTensorMapEncodeTiled(map, 7, 2, (void*)from.at, dims, strides, sizes, steps, 0, swizzle, 0, 0) == 1);
    }
    setenv("EMU_CAPABILITY", "80", 1);
}

// What compiles for which card with which toolkit, and what a driver loads.
static void check_versions() {
    const char* source = "extern \"C\" __global__ void __launch_bounds__(32)  none(float * const __restrict__ buffer_0) { buffer_0[0] = 1.0; }";
    auto toolkit = [](const char* version) { setenv("EMU_NVRTC_VERSION", version, 1); };
    auto driver = [](const char* version) { setenv("EMU_DRIVER_VERSION", version, 1); };
    auto knows = [](int architecture) {
        int count = 0;
        if (nvrtcGetNumSupportedArchs(&count)) return -1;
        std::vector<int> all(count);
        nvrtcGetSupportedArchs(all.data());
        for (int each : all)
            if (each == architecture) return 1;
        return 0;
    };
    auto load = [] {
        void* module;
        return cuModuleLoadData(&module, made.data());
    };
    toolkit("12.8");
    CHECK(knows(75) == 1 && knows(100) == 1 && knows(120) == 1 && knows(121) == 0);
    toolkit("12.4");
    CHECK(knows(90) == 1 && knows(100) == 0 && knows(120) == 0 && compile(source, "sm_120") == 5 && said.find("invalid value for --gpu-architecture") != std::string::npos);
    toolkit("11.7");
    CHECK(knows(86) == 1 && knows(89) == 0 && knows(90) == 0 && compile(source, "sm_90") == 5 && compile(source, "sm_86") == 0);
    toolkit("13.0");
    CHECK(knows(70) == 0 && knows(75) == 1);
    toolkit("11.0");
    CHECK(knows(80) == -1 && compile(source, "sm_80") == 5 && compile(source, "compute_80") == 0 && made.empty() && compile(source, "compute_80", true) == 0 && load() == 0);
    // Machine code of a newer toolkit loads within its major version, PTX does not.
    toolkit("12.9"), driver("12040");
    CHECK(compile(source, "sm_80") == 0 && load() == 0);
    CHECK(compile(source, "compute_80", true) == 0 && load() == 222);
    driver("12090");
    CHECK(load() == 0);
    driver("11080");
    CHECK(compile(source, "sm_80") == 0 && load() == 200);
    driver("12090");
    // Code of another generation, of a later card, and of one architecture alone.
    setenv("EMU_CAPABILITY", "86", 1);
    CHECK(load() == 0);
    CHECK(compile(source, "sm_89") == 0 && load() == 209 && compile(source, "sm_75") == 0 && load() == 209);
    CHECK(compile(source, "compute_75", true) == 0 && load() == 0 && compile(source, "compute_90", true) == 0 && load() == 209);
    setenv("EMU_CAPABILITY", "90", 1);
    CHECK(compile(source, "sm_90a") == 0 && load() == 0);
    setenv("EMU_CAPABILITY", "80", 1);
    CHECK(load() == 209);
    // Headers are looked for where the options say.
    std::string tensor = std::string("#include <mma.h>\n") + source;
    CHECK(compile(tensor, "sm_80") == 0 && compile(tensor, "sm_80", false, false) == 6 && said.find("cannot open source file \"mma.h\"") != std::string::npos);
    void* module;
    CHECK(cuModuleLoadData(&module, "// no PTX of ours") == 200);
}

int main() {
    CHECK(cuInit(0) == 0);
    check_versions();
    check_mma("f16", "float", 16, "__emu_bits<__half>");
    check_mma("f16", "float", 8, "__emu_bits<__half>");
    check_mma("bf16", "float", 16, "__emu_bits<__nv_bfloat16>");
    check_mma("bf16", "float", 8, "__emu_bits<__nv_bfloat16>");
    check_mma("tf32", "float", 8, "__float_as_uint");
    check_mma("s8", "int", 32, "__emu_byte");
    for (int count : {1, 2, 4})
        for (bool transposed : {false, true}) check_matrices(count, transposed);
    check_copies();
    check_tensor_map();
    {
        // A NaN goes through min and max of 8.0; a thread that waits for what never comes ends the launch.
        void* nan = kernel(R"(
extern "C" __global__ void __launch_bounds__(1)  nans(float const* const __restrict__ buffer_0, float * const __restrict__ buffer_1) {
float const x = buffer_0[0], y = buffer_0[1];
buffer_1[0] = [&] {
#if __CUDA_ARCH__ >= 800
    float result;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(x), "f"(y));
    return result;
#else
    return 3.0f;
#endif
}();
})", "nans");
        Buffer<float> from({1.f, NAN}), to({0.f});
        CHECK(launch(nan, 1, 1, 0, {&from.at, &to.at}) == 0 && std::isnan(to.read()[0]));
    }
    {
        // Scalars by value, a vector type, a plain loop.
        void* add = kernel(R"(
struct alignas(16) float_4 { float i_0; float i_1; float i_2; float i_3; };
struct info_st { float scalars_f32[2]; uint32_t static_meta[2]; };
extern "C" __global__ void __launch_bounds__(64)  add(float_4 const* const __restrict__ buffer_0, float_4 * const __restrict__ buffer_1, __grid_constant__ info_st const info) {
uint32_t const at = blockIdx.x * 64 + threadIdx.x;
if(at < info.static_meta[0]) {
float_4 const v = *(&buffer_0[at]);
float const s = info.scalars_f32[0];
float_4 const r = float_4{v.i_0 + s, v.i_1 + s, v.i_2 + s, exp(v.i_3)};
*(&buffer_1[at]) = r;
}
return;
})", "add");
        std::vector<float> numbers(400);
        for (int i = 0; i < 400; i++) numbers[i] = i * 0.01f;
        Buffer<float> from(numbers), to(std::vector<float>(400, -1.f));
        struct { float scalars[2]; unsigned meta[2]; } info = {{2.5f, 0}, {100, 0}};
        CHECK(launch(add, 2, 64, 0, {&from.at, &to.at, &info}) == 0);
        auto out = to.read();
        CHECK(out[0] == 2.5f && out[4] == 0.04f + 2.5f && std::fabs(out[399] - std::exp(3.99f)) < 1e-3);
    }
    {
        // A tree over shared memory, and the same by shuffles.
        void* sums = kernel(R"(
extern "C" __global__ void __launch_bounds__(256)  sums(float const* const __restrict__ buffer_0, float * const __restrict__ buffer_1) {
extern __shared__ __align__(16) char value_1[];float * const tile = reinterpret_cast<float *>(&value_1[0]);
tile[threadIdx.x] = buffer_0[blockIdx.x * 256 + threadIdx.x];
__syncthreads();
for(uint32_t half = 128; half > 0; half /= 2) {
if(threadIdx.x < half) {
tile[threadIdx.x] += tile[threadIdx.x + half];
}
__syncthreads();
}
float own = buffer_0[blockIdx.x * 256 + threadIdx.x];
for(uint32_t mask = 16; mask > 0; mask /= 2) {
float const other = __shfl_xor_sync(__activemask(), own, mask);
own += other;
}
__syncthreads();
float const whole = tile[0];
__syncthreads();
if(threadIdx.x % warpSize == 0) {
tile[threadIdx.x / warpSize] = own;
}
__syncthreads();
if(threadIdx.x == 0) {
float by_warps = 0.0;
for(uint32_t i = 0; i < 8; i += 1) { by_warps += tile[i]; }
buffer_1[blockIdx.x * 2] = whole;
buffer_1[blockIdx.x * 2 + 1] = by_warps;
}
})", "sums");
        std::vector<float> numbers(1024);
        double expected[4] = {};
        for (int i = 0; i < 1024; i++) numbers[i] = (float)((i * 37) % 101), expected[i / 256] += numbers[i];
        Buffer<float> from(numbers), to(std::vector<float>(8, -1.f));
        CHECK(launch(sums, 4, 256, 1024, {&from.at, &to.at}) == 0);
        auto out = to.read();
        for (int block = 0; block < 4; block++) CHECK(out[block * 2] == expected[block] && out[block * 2 + 1] == expected[block]);
    }
    {
        // A warp that diverges: who is in the branch comes first, then all go on together.
        void* diverged = kernel(R"(
extern "C" __global__ void __launch_bounds__(32)  diverged(uint32_t * const __restrict__ buffer_0) {
uint32_t got = 0;
if(threadIdx.x < 8) {
uint32_t const votes = __ballot_sync(__activemask(), threadIdx.x % 2 == 0);
got = votes;
}
uint32_t const all = __ballot_sync(__activemask(), got != 0);
uint32_t loops = 0;
for(uint32_t i = 0; i < threadIdx.x; i += 1) {
loops += __popc(__activemask());
}
__syncwarp();
buffer_0[threadIdx.x * 3] = got;
buffer_0[threadIdx.x * 3 + 1] = all;
buffer_0[threadIdx.x * 3 + 2] = loops;
})", "diverged");
        Buffer<unsigned> to(std::vector<unsigned>(96, 7));
        CHECK(launch(diverged, 1, 32, 0, {&to.at}) == 0);
        auto out = to.read();
        CHECK(out[0] == 0x55 && out[7 * 3] == 0x55 && out[8 * 3] == 0 && out[31 * 3 + 1] == 0xff && out[1] == 0xff);
        CHECK(out[2] == 0 && out[1 * 3 + 2] == 31 && out[2 * 3 + 2] == 61);
    }
    {
        // 16-bit numbers, and all their roundings against the definition.
        void* narrow = kernel(R"(
#include <cuda_bf16.h>
#include <cuda_fp16.h>
struct alignas(4) __half_2 { __half i_0; __half i_1; };
extern "C" __global__ void __launch_bounds__(1)  narrow(float const* const __restrict__ buffer_0, __half * const __restrict__ buffer_1, __nv_bfloat16 * const __restrict__ buffer_2) {
for(uint32_t i = 0; i < 64; i += 1) {
float const v = buffer_0[i];
__half const h = __half(v);
__nv_bfloat16 const b = __nv_bfloat16(v);
__half const two = 2.0;
__half_2 const pair = __half_2{h, two};
__half2 const packed = reinterpret_cast<const __half2&>(pair);
__half2 const sum = packed + packed;
buffer_1[i] = reinterpret_cast<const __half_2&>(sum).i_0 / two;
buffer_2[i] = -(-b);
}
})", "narrow");
        std::vector<float> numbers(64);
        for (int i = 0; i < 64; i++) numbers[i] = (i - 30) * 1.0009765f * std::pow(3.f, (float)(i % 7) - 3);
        numbers[0] = 1.00390625f, numbers[1] = 1.01171875f; // halfway between two bfloat16: to the even one.
        Buffer<float> from(numbers);
        Buffer<unsigned short> halves(std::vector<unsigned short>(64, 1)), bfloats(std::vector<unsigned short>(64, 1));
        CHECK(launch(narrow, 1, 1, 0, {&from.at, &halves.at, &bfloats.at}) == 0);
        auto h = halves.read(), b = bfloats.read();
        CHECK(b[0] == 0x3f80 && b[1] == 0x3f82);
        for (int i = 0; i < 64; i++) {
            _Float16 expected = (_Float16)numbers[i];
            CHECK(memcmp(&expected, &h[i], 2) == 0);
        }
    }
    for (const char* type : {"__half", "__nv_bfloat16"}) {
        // A product on tensor cores, the right matrix in both orders.
        std::string source = std::string("#include <mma.h>\ntypedef ") + type + R"( T;
extern "C" __global__ void __launch_bounds__(32)  tensor(float const* const __restrict__ buffer_0, float const* const __restrict__ buffer_1, float * const __restrict__ buffer_2) {
extern __shared__ __align__(128) char value_1[];
T * const a = reinterpret_cast<T *>(&value_1[0]);
T * const b = reinterpret_cast<T *>(&value_1[512]);
float * const c = reinterpret_cast<float *>(&value_1[1024]);
for(uint32_t i = threadIdx.x; i < 256; i += 32) { a[i] = T(buffer_0[i]); b[i] = T(buffer_1[i]); }
__syncthreads();
nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, 16, 16, 16, T, nvcuda::wmma::row_major> fa_store; auto* fa = &fa_store;
nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, 16, 16, 16, T, nvcuda::wmma::row_major> fb_store; auto* fb = &fb_store;
nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, 16, 16, 16, T, nvcuda::wmma::col_major> ft_store; auto* ft = &ft_store;
nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 16, float> fc_store; auto* fc = &fc_store;
nvcuda::wmma::fill_fragment(*fc, 0.0);
nvcuda::wmma::load_matrix_sync(*fa, a, 16);
nvcuda::wmma::load_matrix_sync(*fb, b, 16);
nvcuda::wmma::load_matrix_sync(*ft, b, 16);
nvcuda::wmma::mma_sync(*fc, *fa, *fb, *fc);
nvcuda::wmma::mma_sync(*fc, *fa, *ft, *fc);
nvcuda::wmma::store_matrix_sync(c, *fc, 16, nvcuda::wmma::mem_row_major);
__syncthreads();
for(uint32_t i = threadIdx.x; i < 256; i += 32) { buffer_2[i] = c[i]; }
})";
        void* tensor = kernel(source, "tensor");
        std::vector<float> a(256), b(256);
        for (int i = 0; i < 256; i++) a[i] = (float)(i % 7) - 3, b[i] = (float)(i % 5) - 2;
        Buffer<float> left(a), right(b), to(std::vector<float>(256, -1.f));
        CHECK(launch(tensor, 1, 32, 2048, {&left.at, &right.at, &to.at}) == 0);
        auto out = to.read();
        for (int row = 0; row < 16; row++)
            for (int column = 0; column < 16; column++) {
                float expected = 0;
                for (int k = 0; k < 16; k++) expected += a[row * 16 + k] * (b[k * 16 + column] + b[column * 16 + k]);
                CHECK(out[row * 16 + column] == expected);
            }
    }
    {
        // Limits of a launch, and memory that is not there.
        void* wild = kernel(R"(
extern "C" __global__ void __launch_bounds__(32)  wild(float * const __restrict__ buffer_0) { buffer_0[threadIdx.x + 100000000ull] = 1.0; })", "wild");
        Buffer<float> to(std::vector<float>(8, -1.f));
        CHECK(cuLaunchKernel(wild, 1, 65536, 1, 32, 1, 1, 0, nullptr, nullptr, nullptr) == 1);
        CHECK(cuLaunchKernel(wild, 1, 1, 1, 2048, 1, 1, 0, nullptr, nullptr, nullptr) == 1);
        if (fork() == 0) {
            // The same device cannot be used after either.
            void* stuck = kernel(R"(
#include <cuda/barrier>
extern "C" __global__ void __launch_bounds__(2)  stuck(float * const __restrict__ buffer_0) {
extern __shared__ __align__(16) char value_1[];
cuda::barrier<cuda::thread_scope_block> * const bar = reinterpret_cast<cuda::barrier<cuda::thread_scope_block> *>(&value_1[0]);
if(threadIdx.x == 0) { init(bar, 3); }
__syncthreads();
bar->arrive_and_wait();
})", "stuck");
            _exit(launch(stuck, 1, 2, 64, {&to.at}) != 702);
        }
        int status = 1;
        CHECK(wait(&status) > 0 && status == 0);
        CHECK(launch(wild, 1, 32, 0, {&to.at}) == 700);
        CHECK(cuMemFree_v2(to.at) == 700);
    }
    printf(failures ? "%d checks failed\n" : "the emulator computes as it should\n", failures);
    return failures != 0;
}
