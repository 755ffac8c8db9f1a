//! A flipped bit anywhere in what a run reads is a fault with words, or harmless, and never a
//! panic: readers of other crates panic over some of them.

mod support;

use std::collections::BTreeMap;
use std::fs;

use rankine::data::tokenize::Tokenizer;
use rankine::data::{Corpus, DataSource, Encoder, Limits};
use rankine::files::guarded;
use rankine::model::Folder;
use rankine::terms::{Format, TrainOn, Truncation};
use support::*;

/// Flips each of `masks` in every `stride`-th of the first bytes of a file, each time reads it, and
/// collects what panics.
fn flip(desk: &Desk, name: &str, bytes: usize, stride: usize, masks: &[u8], read: impl Fn()) {
    let whole = desk.read(name);
    let mut panics = Vec::new();
    for (place, mask) in (0..bytes.min(whole.len()))
        .step_by(stride)
        .flat_map(|place| masks.iter().map(move |mask| (place, mask)))
    {
        let mut damaged = whole.clone();
        damaged[place] ^= mask;
        desk.write(name, damaged);
        panics.extend(
            guarded(&read)
                .err()
                .map(|panic| format!("byte {place} ^ {mask:#04x}: {panic}")),
        );
    }
    desk.write(name, whole);
    assert!(panics.is_empty(), "{name}: {panics:#?}");
}

#[test]
fn no_flipped_bit_of_a_parquet_file_makes_a_panic() {
    let desk = Desk::new();
    let encoder = Encoder {
        tokenizer: Tokenizer::open(&desk.path("base")).unwrap(),
        template: None,
    };
    let limits = Limits {
        sequence_len: 64,
        truncation: Truncation::Drop,
    };
    let (files, columns) = (vec![desk.path("rows.parquet")], BTreeMap::new());
    let source = [DataSource {
        files: files.into_iter().map(Into::into).collect(),
        selected: None,
        format: Format::Text,
        columns,
        roles: BTreeMap::new(),
        train_on: TrainOn::All,
        system: None,
        labels: None,
    }];
    flip(
        &desk,
        "rows.parquet",
        usize::MAX,
        1,
        &[0xff, 0x80, 0x40, 0x01],
        || {
            let _ = Corpus::open(&source, &encoder, &limits, &desk.path("cache"), &|_| {});
            let _ = fs::remove_dir_all(desk.path("cache"));
        },
    );
}

#[test]
fn no_flipped_bit_of_a_base_makes_a_panic() {
    let desk = Desk::new();
    let base = desk.path("base");
    let header = u64::from_le_bytes(desk.read("base/model.safetensors")[..8].try_into().unwrap())
        as usize
        + 8;
    let model = || {
        let _ = Folder::open(&base).and_then(|folder| folder.check_weights());
    };
    let tokenizer = || {
        let _ = Tokenizer::open(&base)
            .and_then(|tokenizer| tokenizer.encode("the term 7 means <|eot_id|> é🙂", true));
    };
    flip(
        &desk,
        "base/model.safetensors",
        header,
        7,
        &[0xff, 0x10, 0x02, 0x01],
        model,
    );
    flip(
        &desk,
        "base/config.json",
        usize::MAX,
        1,
        &[0x10, 0x02, 0x01],
        model,
    );
    flip(
        &desk,
        "base/tokenizer.json",
        usize::MAX,
        5,
        &[0x02],
        tokenizer,
    );
    flip(
        &desk,
        "base/tokenizer_config.json",
        usize::MAX,
        29,
        &[0x02],
        tokenizer,
    );
}
