//! What attention holds at its peak, forward and backward, grows with the tokens and not with their
//! square. The counter is of the whole process, so this file holds one test.

#![allow(unsafe_code, reason = "a global allocator is unsafe by its trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::{Device, Tensor, TensorData};
use rankine::ops::{Score, SeenKeys, attention};

/// Counts the bytes that are held.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        MOST.fetch_max(
            HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size(),
            Ordering::Relaxed,
        );
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const WIDTH: usize = 16;

/// Bytes at the peak of forward and backward over so many tokens, in documents of so many, beyond
/// those of before.
fn peak(tokens: usize, document: usize) -> usize {
    let before = HELD.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let numbers = |heads: usize, seed: f32| {
        let values: Vec<f32> = (0..tokens * heads * WIDTH)
            .map(|index| (seed * index as f32).sin())
            .collect();
        Tensor::<4>::from_data(
            TensorData::new(values, [1, tokens, heads, WIDTH]),
            &Device::flex(),
        )
        .autodiff()
        .require_grad()
    };
    let [query, key, value] = [
        numbers(HEADS, 0.37),
        numbers(KV_HEADS, 0.73),
        numbers(KV_HEADS, 1.1),
    ];
    let seen: Arc<[SeenKeys]> = (0..tokens)
        .map(|token| SeenKeys {
            first: (token / document * document) as u32,
            end: token as u32 + 1,
        })
        .collect();
    let output = attention(
        query.clone(),
        key,
        value,
        &seen,
        Score {
            scale: 0.25,
            softcap: None,
        },
    );
    let gradients = output.sum().backward();
    assert!(query.grad(&gradients).is_some());
    MOST.load(Ordering::Relaxed) - before
}

#[test]
fn what_is_held_grows_with_the_tokens() {
    peak(256, 256); // What is allocated once.
    let peaks = [1024, 2048, 4096].map(|tokens| (tokens, peak(tokens, tokens)));
    println!("{peaks:?}");
    assert!(
        peaks[1].1 * 10 <= peaks[0].1 * 22 && peaks[2].1 * 10 <= peaks[1].1 * 22,
        "{peaks:?}"
    );
    // Twelve of the queries' size: Q, O, dO, dQ and their parts, and K, V, dK, dV at half of that.
    let of_queries = 4096 * HEADS * WIDTH * 4;
    assert!(
        peaks[2].1 <= 12 * of_queries,
        "{} queries",
        peaks[2].1 as f64 / of_queries as f64
    );
    let of_short = peak(4096, 10);
    assert!(
        of_short * 10 <= peaks[2].1 * 13,
        "documents of 10 tokens: {of_short} bytes, one of 4096: {}",
        peaks[2].1
    );
}
