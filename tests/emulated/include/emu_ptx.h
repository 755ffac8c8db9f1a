// What inline PTX becomes: src/ptx.cpp writes calls of these. Layouts of fragments are those of the PTX ISA,
// https://docs.nvidia.com/cuda/parallel-thread-execution/#warp-level-matrix-instructions
#pragma once

static inline int __emu_add_sat(int a, int b) { long long sum = (long long)a + b; return sum > 2147483647LL ? 2147483647 : sum < -2147483648LL ? -2147483647 - 1 : (int)sum; }
static inline int __emu_sub_sat(int a, int b) { long long sum = (long long)a - b; return sum > 2147483647LL ? 2147483647 : sum < -2147483648LL ? -2147483647 - 1 : (int)sum; }
static inline float __emu_min_nan(float a, float b) { return isnan(a) ? a : isnan(b) ? b : min(a, b); }
static inline float __emu_max_nan(float a, float b) { return isnan(a) ? a : isnan(b) ? b : max(a, b); }

// Addresses of shared memory are offsets into the block's part of it.
#define __cvta_generic_to_shared(pointer) ((unsigned)((const char*)(pointer) - __emu->shared))
static inline char* __emu_shared(unsigned offset) { return __emu->shared + offset; }

// Numbers in a register of 32 bits, by the name that PTX gives to their type.
struct __emu_bf16 { enum { each = 2 }; static float of(unsigned bits, int at) { return __builtin_bit_cast(float, bits >> 16 * at << 16); } };
struct __emu_f16 { enum { each = 2 }; static float of(unsigned bits, int at) { return (float)__builtin_bit_cast(_Float16, (unsigned short)(bits >> 16 * at)); } };
// Tensor cores read 19 bits of a number; who wants it rounded rounds it before.
struct __emu_tf32 { enum { each = 1 }; static float of(unsigned bits, int) { return __builtin_bit_cast(float, bits & ~0x1fffu); } };
struct __emu_s8 { enum { each = 4 }; static int of(unsigned bits, int at) { return (signed char)(bits >> 8 * at); } };
struct __emu_u8 { enum { each = 4 }; static int of(unsigned bits, int at) { return (unsigned char)(bits >> 8 * at); } };

// mma.sync.m16n8k{K}.row.col: d = a b + c, a of 16 x K, b of K x 8. Sums are in the order of k.
template <class A, class B, class C, int K> struct __EmuMma {
    enum { left = K * 16 / 32 / A::each, right = K * 8 / 32 / B::each };
    const unsigned *a, *b;
    const C* c;
    C* d;
    static void together(void** of_lanes, unsigned mask) {
        static C a[16][K], b[K][8];
        if (mask != 0xffffffffu) __emu_api->fault("mma.sync by part of a warp, mask %08x", mask);
        for (int lane = 0; lane < 32; lane++) {
            if (!(mask >> lane & 1)) continue;
            auto* own = (__EmuMma*)of_lanes[lane];
            int group = lane / 4, place = lane % 4;
            for (int r = 0; r < left; r++)
                for (int e = 0; e < A::each; e++) a[group + 8 * (r & 1)][place * A::each + e + 4 * A::each * (r >> 1)] = A::of(own->a[r], e);
            for (int r = 0; r < right; r++)
                for (int e = 0; e < B::each; e++) b[place * B::each + e + 4 * B::each * r][group] = B::of(own->b[r], e);
        }
        for (int lane = 0; lane < 32; lane++) {
            if (!(mask >> lane & 1)) continue;
            auto* own = (__EmuMma*)of_lanes[lane];
            for (int i = 0; i < 4; i++) {
                int row = lane / 4 + 8 * (i >> 1), column = lane % 4 * 2 + (i & 1);
                C sum = own->c[i];
                for (int k = 0; k < K; k++) sum += a[row][k] * b[k][column];
                own->d[i] = sum;
            }
        }
    }
};
template <class A, class B, class C, int K> static inline void __emu_mma(unsigned site, C (&d)[4], const unsigned* a, const unsigned* b, const C (&c)[4]) {
    __EmuMma<A, B, C, K> own = {a, b, c, d};
    __emu_api->warp(site, __EmuMma<A, B, C, K>::together, &own);
}

// ldmatrix and stmatrix: matrices of 8 x 8 numbers of 16 bits. Lane 8 m + r names row r of matrix m; register m holds two neighbors of
// row lane / 4, of a column where it is transposed.
template <int count, bool transposed, bool stores> struct __EmuMatrices {
    unsigned* registers;
    unsigned row;
    static void together(void** of_lanes, unsigned mask) {
        if (mask != 0xffffffffu) __emu_api->fault("a matrix is read or written by part of a warp, mask %08x", mask);
        for (int lane = 0; lane < 32; lane++) {
            if (!(mask >> lane & 1)) continue;
            auto* own = (__EmuMatrices*)of_lanes[lane];
            for (int m = 0; m < count; m++)
                for (int half = 0; half < 2; half++) {
                    int across = lane / 4, along = lane % 4 * 2 + half;
                    auto* giver = (__EmuMatrices*)of_lanes[8 * m + (transposed ? along : across)];
                    if (!giver) continue;
                    if (giver->row % 16) __emu_api->fault("the row of a matrix lies at %u, which is no multiple of 16", giver->row);
                    auto* number = (unsigned short*)__emu_shared(giver->row) + (transposed ? across : along);
                    unsigned shift = 16 * half;
                    if (stores) *number = (unsigned short)(own->registers[m] >> shift);
                    else own->registers[m] = (own->registers[m] & ~(0xffffu << shift)) | (unsigned)*number << shift;
                }
        }
    }
};
template <int count, bool transposed, bool stores> static inline void __emu_matrices(unsigned site, unsigned* registers, unsigned row) {
    __EmuMatrices<count, transposed, stores> own = {registers, row};
    __emu_api->warp(site, __EmuMatrices<count, transposed, stores>::together, &own);
}
