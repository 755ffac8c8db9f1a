// What CUDA C++ sources find when they are compiled for this machine's CPU: the language's extensions as macros, a thread's place,
// synchronization, atomics and mathematics. It is included before every kernel, and takes no header of the system: kernels of cubecl
// define `uint64_t` and its like themselves, with other types than the system has.
#pragma once

typedef decltype(sizeof(0)) size_t;

#define __CUDA_EMULATED__ 1
#define __global__
#define __device__
#define __host__
#define __constant__ static
// Blocks run one after the other, so that one copy serves them all. `extern __shared__` is rewritten before compilation.
#define __shared__ static
#define __grid_constant__
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; };

extern "C" {
// Where the running thread is. The driver writes it before it resumes a thread.
struct EmuContext {
    uint3 thread, block;
    dim3 threads, blocks;
    char* shared;
    unsigned lane;
    // Of the block, so that what is left of one is told from another's.
    unsigned serial;
};
struct EmuApi {
    EmuContext* context;
    // Waits for all threads of the block.
    void (*barrier)(unsigned site);
    // Waits for the threads of the warp that come to the same site; `together` is called once, with what each lane gave.
    void (*warp)(unsigned site, void (*together)(void** of_lanes, unsigned mask), void* own);
    // Memory that is read or written; only where kernels are compiled with checks.
    void (*access)(const void* address, size_t bytes, int writes);
    int (*print)(const char* format, ...);
    // Waits until `ready` says so.
    void (*wait)(bool (*ready)(void*), void* own);
    // Tells of what a device would not do.
    void (*fault)(const char* format, ...);
};
}
static const EmuApi* __emu_api;
static EmuContext* __emu;

#define threadIdx (__emu->thread)
#define blockIdx (__emu->block)
#define blockDim (__emu->threads)
#define gridDim (__emu->blocks)
#define warpSize 32
#define printf __emu_api->print

// Sites are numbered in the order of the text, which is what tells who of a diverged warp is behind.
#define __syncthreads() __emu_api->barrier(__COUNTER__)
#define __syncwarp(...) __emu_api->warp(__COUNTER__, __emu_nothing, nullptr)
#define __threadfence() ((void)0)
#define __threadfence_block() ((void)0)
#define __threadfence_system() ((void)0)
#define __activemask() __emu_mask(__COUNTER__, 1)
#define __ballot_sync(mask, vote) __emu_mask(__COUNTER__, (vote))
#define __any_sync(mask, vote) (__emu_mask(__COUNTER__, (vote)) != 0u)
#define __all_sync(mask, vote) (__emu_mask(__COUNTER__, !(vote)) == 0u)
#define __shfl_sync(mask, value, ...) __emu_shuffle(__COUNTER__, (value), __emu_lane_of(__VA_ARGS__))
#define __shfl_xor_sync(mask, value, ...) __emu_shuffle(__COUNTER__, (value), __emu_lane_xor(__VA_ARGS__))
#define __shfl_up_sync(mask, value, ...) __emu_shuffle(__COUNTER__, (value), __emu_lane_up(__VA_ARGS__))
#define __shfl_down_sync(mask, value, ...) __emu_shuffle(__COUNTER__, (value), __emu_lane_down(__VA_ARGS__))

static inline void __emu_nothing(void**, unsigned) {}

struct __EmuVote { int vote; unsigned votes; };
static inline void __emu_vote(void** of_lanes, unsigned mask) {
    unsigned votes = 0;
    for (int lane = 0; lane < 32; lane++)
        if (mask >> lane & 1 && ((__EmuVote*)of_lanes[lane])->vote) votes |= 1u << lane;
    for (int lane = 0; lane < 32; lane++)
        if (mask >> lane & 1) ((__EmuVote*)of_lanes[lane])->votes = votes;
}
static inline unsigned __emu_mask(unsigned site, int vote) {
    __EmuVote own = {vote != 0, 0};
    __emu_api->warp(site, __emu_vote, &own);
    return own.votes;
}

static inline int __emu_own() { return (int)__emu->lane; }
static inline int __emu_lane_of(int lane, int width = 32) { return (__emu_own() & ~(width - 1)) | (lane & (width - 1)); }
static inline int __emu_lane_xor(int mask, int width = 32) { int to = __emu_own() ^ mask; return (to & ~(width - 1)) == (__emu_own() & ~(width - 1)) ? to : __emu_own(); }
static inline int __emu_lane_up(unsigned by, int width = 32) { int to = __emu_own() - (int)by; return to >= (__emu_own() & ~(width - 1)) ? to : __emu_own(); }
static inline int __emu_lane_down(unsigned by, int width = 32) { int to = __emu_own() + (int)by; return to <= (__emu_own() | (width - 1)) ? to : __emu_own(); }

template <class T> struct __EmuShuffle { T given, taken; int from; };
template <class T> static inline void __emu_exchange(void** of_lanes, unsigned mask) {
    for (int lane = 0; lane < 32; lane++) {
        if (!(mask >> lane & 1)) continue;
        auto* own = (__EmuShuffle<T>*)of_lanes[lane];
        // A lane that is not there gives an undefined value; here it is the asker's own.
        own->taken = mask >> own->from & 1 ? ((__EmuShuffle<T>*)of_lanes[own->from])->given : own->given;
    }
}
template <class T> static inline T __emu_shuffle(unsigned site, T value, int from) {
    __EmuShuffle<T> own = {value, value, from};
    __emu_api->warp(site, __emu_exchange<T>, &own);
    return own.taken;
}

// Threads take turns, so that plain reads and writes are atomic.
// A pointer of a kernel may be one to constants: in line PTX does not mind.
template <class T> struct __emu_plain { typedef T own; };
template <class T> struct __emu_plain<const T> { typedef T own; };
template <class T> using __emu_unqualified = typename __emu_plain<T>::own;
#define __EMU_ATOMIC(name, expression) \
    template <class T, class V> static inline T name(T* address, V value) { using __Own = __emu_unqualified<T>; __Own old = *address; *const_cast<__Own*>(address) = (expression); return old; }
__EMU_ATOMIC(atomicAdd, T(old + T(value)))
__EMU_ATOMIC(atomicSub, T(old - T(value)))
__EMU_ATOMIC(atomicExch, T(value))
__EMU_ATOMIC(atomicMin, T(value) < old ? T(value) : old)
__EMU_ATOMIC(atomicMax, old < T(value) ? T(value) : old)
__EMU_ATOMIC(atomicAnd, T(old & T(value)))
__EMU_ATOMIC(atomicOr, T(old | T(value)))
__EMU_ATOMIC(atomicXor, T(old ^ T(value)))
template <class T, class C, class V> static inline T atomicCAS(T* address, C compare, V value) {
    T old = *address;
    if (old == T(compare)) *address = T(value);
    return old;
}
template <class T> static inline T __ldg(const T* address) { return *address; }

#define __EMU_1(name) \
    static inline float name(float x) { return __builtin_##name##f(x); } \
    static inline double name(double x) { return __builtin_##name(x); } \
    static inline float name##f(float x) { return __builtin_##name##f(x); }
#define __EMU_2(name) \
    static inline float name(float x, float y) { return __builtin_##name##f(x, y); } \
    static inline double name(double x, double y) { return __builtin_##name(x, y); } \
    static inline double name(float x, double y) { return __builtin_##name(x, y); } \
    static inline double name(double x, float y) { return __builtin_##name(x, y); } \
    static inline float name##f(float x, float y) { return __builtin_##name##f(x, y); }
__EMU_1(exp) __EMU_1(exp2) __EMU_1(expm1) __EMU_1(log) __EMU_1(log2) __EMU_1(log10) __EMU_1(log1p)
__EMU_1(sin) __EMU_1(cos) __EMU_1(tan) __EMU_1(sinh) __EMU_1(cosh) __EMU_1(tanh)
__EMU_1(asin) __EMU_1(acos) __EMU_1(atan) __EMU_1(asinh) __EMU_1(acosh) __EMU_1(atanh)
__EMU_1(sqrt) __EMU_1(cbrt) __EMU_1(ceil) __EMU_1(floor) __EMU_1(trunc) __EMU_1(rint) __EMU_1(round) __EMU_1(fabs) __EMU_1(erf) __EMU_1(erfc)
__EMU_2(pow) __EMU_2(fmod) __EMU_2(atan2) __EMU_2(hypot) __EMU_2(copysign) __EMU_2(fmin) __EMU_2(fmax)
static inline float pow(float x, int y) { return __builtin_powf(x, (float)y); }
static inline double pow(double x, int y) { return __builtin_pow(x, y); }
static inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
static inline float fmaf(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline float rsqrt(float x) { return 1.0f / __builtin_sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / __builtin_sqrt(x); }
static inline float rsqrtf(float x) { return rsqrt(x); }
static inline float rhypotf(float x, float y) { return 1.0f / __builtin_hypotf(x, y); }
static inline double rhypot(double x, double y) { return 1.0 / __builtin_hypot(x, y); }
static inline float __expf(float x) { return __builtin_expf(x); }
static inline float __logf(float x) { return __builtin_logf(x); }
static inline float __sinf(float x) { return __builtin_sinf(x); }
static inline float __cosf(float x) { return __builtin_cosf(x); }
static inline float __powf(float x, float y) { return __builtin_powf(x, y); }
static inline float __fdividef(float x, float y) { return x / y; }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __fsqrt_rn(float x) { return __builtin_sqrtf(x); }
static inline float __frsqrt_rn(float x) { return rsqrt(x); }
static inline float __tanhf(float x) { return __builtin_tanhf(x); }
static inline bool isnan(float x) { return __builtin_isnan(x); }
static inline bool isnan(double x) { return __builtin_isnan(x); }
static inline bool isinf(float x) { return __builtin_isinf(x); }
static inline bool isinf(double x) { return __builtin_isinf(x); }
static inline int abs(int x) { return x < 0 ? -x : x; }
static inline long long abs(long long x) { return x < 0 ? -x : x; }
static inline float abs(float x) { return __builtin_fabsf(x); }
static inline double abs(double x) { return __builtin_fabs(x); }

#define __EMU_ORDER(T) \
    static inline T min(T a, T b) { return b < a ? b : a; } \
    static inline T max(T a, T b) { return a < b ? b : a; }
__EMU_ORDER(int) __EMU_ORDER(unsigned) __EMU_ORDER(long) __EMU_ORDER(unsigned long) __EMU_ORDER(long long) __EMU_ORDER(unsigned long long)
#undef __EMU_ORDER
#define __EMU_MIXED(S, U) \
    static inline U min(S a, U b) { return min((U)a, b); } static inline U min(U a, S b) { return min(a, (U)b); } \
    static inline U max(S a, U b) { return max((U)a, b); } static inline U max(U a, S b) { return max(a, (U)b); }
__EMU_MIXED(int, unsigned) __EMU_MIXED(long long, unsigned long long)
#undef __EMU_MIXED
static inline float min(float a, float b) { return __builtin_fminf(a, b); }
static inline float max(float a, float b) { return __builtin_fmaxf(a, b); }
static inline double min(double a, double b) { return __builtin_fmin(a, b); }
static inline double max(double a, double b) { return __builtin_fmax(a, b); }
static inline double min(float a, double b) { return __builtin_fmin(a, b); }
static inline double min(double a, float b) { return __builtin_fmin(a, b); }
static inline double max(float a, double b) { return __builtin_fmax(a, b); }
static inline double max(double a, float b) { return __builtin_fmax(a, b); }

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline unsigned __brev(unsigned x) {
    unsigned turned = 0;
    for (int bit = 0; bit < 32; bit++) turned |= (x >> bit & 1u) << (31 - bit);
    return turned;
}
static inline unsigned long long __brevll(unsigned long long x) { return (unsigned long long)__brev((unsigned)x) << 32 | __brev((unsigned)(x >> 32)); }
static inline int __mulhi(int a, int b) { return (int)((long long)a * b >> 32); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
static inline long long __mul64hi(long long a, long long b) { return (long long)((__int128)a * b >> 64); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) { return (unsigned long long)((unsigned __int128)a * b >> 64); }
static inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; i++) c += (signed char)(a >> 8 * i) * (signed char)(b >> 8 * i);
    return c;
}
static inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
    for (int i = 0; i < 4; i++) c += (a >> 8 * i & 255u) * (b >> 8 * i & 255u);
    return c;
}
static inline float __int_as_float(int x) { return __builtin_bit_cast(float, x); }
static inline int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
static inline float __uint_as_float(unsigned x) { return __builtin_bit_cast(float, x); }
static inline unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }

#include "emu_ptx.h"

// From the array of pointers that a launch hands over to a call of the kernel.
template <class T> struct __EmuBare { typedef T type; };
template <class T> struct __EmuBare<const T> { typedef T type; };
template <size_t... I> struct __EmuIndices {};
template <size_t N, size_t... I> struct __EmuCount : __EmuCount<N - 1, N - 1, I...> {};
template <size_t... I> struct __EmuCount<0, I...> { typedef __EmuIndices<I...> type; };
template <class... A, size_t... I> static inline void __emu_once(void (*kernel)(A...), void** given, __EmuIndices<I...>) {
    kernel(*(typename __EmuBare<A>::type*)given[I]...);
}
template <class... A> static inline void __emu_call(void (*kernel)(A...), void** given) {
    __emu_once(kernel, given, typename __EmuCount<sizeof...(A)>::type());
}
template <class... A> static inline int __emu_parameters(void (*)(A...)) { return (int)sizeof...(A); }
// All threads of a block in turn, for kernels in which none waits for another.
template <class... A> static inline void __emu_block(void (*kernel)(A...), void** given) {
    for (unsigned z = 0; z < blockDim.z; z++)
        for (unsigned y = 0; y < blockDim.y; y++)
            for (unsigned x = 0; x < blockDim.x; x++) {
                __emu->thread = {x, y, z};
                __emu->lane = (x + blockDim.x * (y + blockDim.y * z)) % 32;
                __emu_call(kernel, given);
            }
}

#ifdef __SANITIZE_ADDRESS__
#define __EMU_CHECK(bytes) \
    extern "C" __attribute__((visibility("hidden"), no_sanitize_address)) void __asan_load##bytes##_noabort(const void* address) { __emu_api->access(address, bytes, 0); } \
    extern "C" __attribute__((visibility("hidden"), no_sanitize_address)) void __asan_store##bytes##_noabort(const void* address) { __emu_api->access(address, bytes, 1); }
__EMU_CHECK(1) __EMU_CHECK(2) __EMU_CHECK(4) __EMU_CHECK(8) __EMU_CHECK(16)
extern "C" __attribute__((visibility("hidden"), no_sanitize_address)) void __asan_loadN_noabort(const void* address, size_t bytes) { __emu_api->access(address, bytes, 0); }
extern "C" __attribute__((visibility("hidden"), no_sanitize_address)) void __asan_storeN_noabort(const void* address, size_t bytes) { __emu_api->access(address, bytes, 1); }
extern "C" __attribute__((visibility("hidden"), no_sanitize_address)) void __asan_handle_no_return() {}
#endif
