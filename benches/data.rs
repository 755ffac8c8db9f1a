//! From rows to batches: tokenizing, alone and from Parquet to a token cache; opening a cache that
//! is there; the order of an epoch; and batches.
//!
//!     cargo bench --bench data

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rankine::data::template::ChatTemplate;
use rankine::data::tokenize::Tokenizer;
use rankine::data::{Corpus, DataSource, Encoder, Limits, Packing, Packs, Rows, Visit, shuffled};
use rankine::keyed_random::mix;
use rankine::terms::{Format, TrainOn, Truncation};

const LIMITS: Limits = Limits {
    sequence_len: 256,
    truncation: Truncation::Truncate,
};

fn of_repository(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The repository's tokenizer with a stock template, which is taken without being tried in a child
/// of this program.
fn encoder() -> Encoder {
    let tokenizer =
        Tokenizer::open(&of_repository("checkpoints/rankine-tiny")).expect("a tokenizer");
    let template = std::fs::read_to_string(of_repository("src/data/template/stock/chatml.jinja"))
        .expect("read");
    let template = ChatTemplate::new(&template, tokenizer.special(), jiff::Timestamp::UNIX_EPOCH)
        .expect("a template");
    Encoder {
        tokenizer,
        template: Some(template),
    }
}

fn glossary() -> DataSource {
    let files = vec![of_repository("datasets/legal-glossary.parquet").into()];
    DataSource {
        files,
        selected: None,
        format: Format::Chat,
        columns: BTreeMap::new(),
        roles: BTreeMap::new(),
        train_on: TrainOn::Assistant,
        system: None,
        labels: None,
    }
}

fn open(encoder: &Encoder, cache: &Path) -> Corpus {
    Corpus::open(
        &[glossary()],
        encoder,
        &LIMITS,
        &cache.to_path_buf(),
        &|_| {},
    )
    .expect("rows")
}

/// Bytes of text a second, by one thread.
fn tokenizing(criterion: &mut Criterion) {
    let tokenizer = encoder().tokenizer;
    let text = std::fs::read_to_string(of_repository("datasets/README.md")).expect("read");
    let mut group = criterion.benchmark_group("tokenizing");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("ids", |bencher| {
        bencher.iter(|| tokenizer.ids(black_box(&text), true));
    });
    group.bench_function("ids and places", |bencher| {
        bencher.iter(|| tokenizer.encode(black_box(&text), true));
    });
    group.finish();
}

/// Rows a second from Parquet to a cache, and from a cache that is there.
fn corpus(criterion: &mut Criterion) {
    let encoder = encoder();
    let folder = || tempfile::tempdir().expect("a temporary folder");
    let warm = folder();
    let rows = open(&encoder, warm.path()).rows_read();
    let mut group = criterion.benchmark_group("corpus");
    group.throughput(Throughput::Elements(rows)).sample_size(10);
    group.bench_function("tokenized", |bencher| {
        bencher.iter_batched(
            folder,
            |cold| open(&encoder, cold.path()).len(),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("from the cache", |bencher| {
        bencher.iter(|| open(&encoder, warm.path()).len());
    });
    group.finish();
}

/// Rows a second: an epoch's order, its packs, and batches of eight rows.
fn batches(criterion: &mut Criterion) {
    const ROWS: usize = 1_000_000;
    let mut group = criterion.benchmark_group("order");
    group
        .throughput(Throughput::Elements(ROWS as u64))
        .sample_size(10);
    group.bench_function("shuffled", |bencher| {
        bencher.iter(|| shuffled(42, 1, black_box(ROWS)));
    });
    let lengths: Vec<u32> = (0..ROWS as u64)
        .map(|row| 20 + (mix(row) % 400) as u32)
        .collect();
    let visit = Visit::Shuffled { seed: 42, epoch: 1 };
    group.bench_function("packed", |bencher| {
        bencher.iter(|| Packs::best_fit(black_box(&lengths), 2048, visit));
    });
    group.finish();

    let folder = tempfile::tempdir().expect("a temporary folder");
    let corpus = open(&encoder(), folder.path());
    let rows = Rows::new(&corpus, shuffled(42, 0, corpus.len()));
    let mut group = criterion.benchmark_group("batches");
    group.throughput(Throughput::Elements(rows.len() as u64));
    group.bench_function("of eight rows", |bencher| {
        bencher.iter(|| {
            rows.batches(8, Packing::Off)
                .map(|batch| batch.tokens())
                .sum::<u64>()
        });
    });
    group.finish();
}

criterion_group!(benches, tokenizing, corpus, batches);
criterion_main!(benches);
