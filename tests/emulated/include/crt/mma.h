// Fragments of tensor cores. A lane holds consecutive elements of the matrix in row-major order, whatever its type, so that a loop over
// two accumulators converts one into the other. Sums are in float, in the order of k.
#pragma once
#include "../cuda_fp16.h"
#include "../cuda_bf16.h"

namespace nvcuda {
namespace wmma {
struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout_t { mem_row_major, mem_col_major };
namespace precision { struct tf32; }

template <class T> struct Stored { typedef T type; };
template <> struct Stored<precision::tf32> { typedef float type; };
template <class Use, int m, int n, int k> struct Sizes;
template <int m, int n, int k> struct Sizes<matrix_a, m, n, k> { enum { rows = m, columns = k }; };
template <int m, int n, int k> struct Sizes<matrix_b, m, n, k> { enum { rows = k, columns = n }; };
template <int m, int n, int k> struct Sizes<accumulator, m, n, k> { enum { rows = m, columns = n }; };
template <class A, class B> struct Same { enum { value = 0 }; };
template <class A> struct Same<A, A> { enum { value = 1 }; };

template <class Use, int m, int n, int k, class T, class Layout = void> struct fragment {
    typedef typename Stored<T>::type element_type;
    enum { rows = Sizes<Use, m, n, k>::rows, columns = Sizes<Use, m, n, k>::columns, num_elements = rows * columns / 32 };
    element_type x[num_elements];
};

template <class F> static inline void each(F& given, bool by_rows, unsigned stride, void* memory, bool writes) {
    auto* numbers = (typename F::element_type*)memory;
    for (int i = 0; i < F::num_elements; i++) {
        int place = (int)__emu->lane * F::num_elements + i, row = place / F::columns, column = place % F::columns;
        auto& there = numbers[by_rows ? (size_t)row * stride + column : (size_t)column * stride + row];
        if (writes) there = given.x[i]; else given.x[i] = there;
    }
}
template <class Use, int m, int n, int k, class T, class Layout, class P>
static inline void load_matrix_sync(fragment<Use, m, n, k, T, Layout>& to, const P* from, unsigned stride) {
    each(to, Same<Layout, row_major>::value, stride, (void*)from, false);
}
template <int m, int n, int k, class T, class P>
static inline void load_matrix_sync(fragment<accumulator, m, n, k, T>& to, const P* from, unsigned stride, layout_t layout) {
    each(to, layout == mem_row_major, stride, (void*)from, false);
}
template <int m, int n, int k, class T, class P>
static inline void store_matrix_sync(P* to, const fragment<accumulator, m, n, k, T>& from, unsigned stride, layout_t layout) {
    each(const_cast<fragment<accumulator, m, n, k, T>&>(from), layout == mem_row_major, stride, (void*)to, true);
}
template <class F, class V> static inline void fill_fragment(F& to, V value) {
    for (int i = 0; i < F::num_elements; i++) to.x[i] = typename F::element_type(value);
}
// To the nearest, and from the middle away from zero.
static inline float __float_to_tf32(float x) {
    unsigned bits = __float_as_uint(x);
    return (bits & 0x7f800000u) == 0x7f800000u ? x : __uint_as_float((bits + 0x1000u) & ~0x1fffu);
}

template <class D, class A, class B, class C> struct Product {
    D* d; const A* a; const B* b; const C* c;
    static void together(void** of_lanes, unsigned mask) {
        static float a[A::rows * A::columns], b[B::rows * B::columns], c[C::rows * C::columns];
        if (mask != 0xffffffffu) __emu_api->fault("a product of tensor cores by part of a warp, mask %08x", mask);
        for (int lane = 0; lane < 32; lane++) {
            if (!(mask >> lane & 1)) continue;
            auto* own = (Product*)of_lanes[lane];
            for (int i = 0; i < A::num_elements; i++) a[lane * A::num_elements + i] = float(own->a->x[i]);
            for (int i = 0; i < B::num_elements; i++) b[lane * B::num_elements + i] = float(own->b->x[i]);
            for (int i = 0; i < C::num_elements; i++) c[lane * C::num_elements + i] = float(own->c->x[i]);
        }
        for (int row = 0; row < C::rows; row++)
            for (int depth = 0; depth < A::columns; depth++) {
                float left = a[row * A::columns + depth];
                for (int column = 0; column < C::columns; column++) c[row * C::columns + column] += left * b[depth * B::columns + column];
            }
        for (int lane = 0; lane < 32; lane++) {
            if (!(mask >> lane & 1)) continue;
            auto* own = (Product*)of_lanes[lane];
            for (int i = 0; i < D::num_elements; i++) own->d->x[i] = typename D::element_type(c[lane * D::num_elements + i]);
        }
    }
};
template <class D, class A, class B, class C> static inline void product(unsigned site, D& d, const A& a, const B& b, const C& c) {
    Product<D, A, B, C> own = {&d, &a, &b, &c};
    __emu_api->warp(site, Product<D, A, B, C>::together, &own);
}
// The namespace is named at the call: a macro follows it there.
#define mma_sync(d, a, b, c) product(__COUNTER__, d, a, b, c)
}
}
