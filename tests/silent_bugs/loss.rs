//! What a step's loss and gradient are a mean of. The truth is made of one row at a time: losses
//! from the logits, gradients summed here.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use rankine::adapter::{LoraConfig, attach, tensors};
use rankine::data::{Batch, Rows, TokenRow};
use rankine::model::Decoder;
use rankine::terms::Format;
use rankine::train::{Gradients, Memory, StepConfig, forward_backward, score};
use serde_json::Value;

use crate::common::{batch as batch_of, load, logits, lora};
use crate::rows::{ALL, encoder, open, source};
use crate::support::{Desk, texts};

/// A relative difference that comes of the order in which f32 are added.
const ROUNDING: f64 = 1e-6;

/// Prompts and completions of very different lengths, so that a mean of means is another number.
fn columns(rows: usize) -> [Vec<String>; 2] {
    let long = |row: usize| {
        if row.is_multiple_of(5) {
            12
        } else {
            1 + row % 3
        }
    };
    let prompts = (0..rows).map(|row| "what is ".repeat(1 + row % 4));
    let completions = (0..rows).map(|row| {
        format!(
            "{row}: {}",
            ["so", "fever", "a b"][row % 3].repeat(long(row))
        )
    });
    [prompts.collect(), completions.collect()]
}

/// Each row by itself: its losses, and the sum over them of the gradients.
struct ByHand {
    losses: Vec<Vec<f64>>,
    gradients: Vec<Vec<f64>>,
}

/// The base with an adapter whose matrices are both drawn, so that every gradient flows.
fn model(desk: &Desk) -> Decoder {
    let mut decoder = load(&desk.path("base"));
    attach(
        &mut decoder,
        &LoraConfig {
            init_lora_weights: false,
            ..lora(4, 8.0)
        },
        42,
        None,
    )
    .unwrap();
    decoder
}

/// -log p of each target, from the logits.
fn losses(decoder: &Decoder, batch: &Batch) -> Vec<f64> {
    let logits: Vec<f64> = logits(decoder, batch).into_iter().map(f64::from).collect();
    let vocabulary = decoder.spec.vocabulary;
    let loss = |(position, target): (&i32, &i32)| {
        let row = &logits[*position as usize * vocabulary..][..vocabulary];
        row.iter().map(|logit| logit.exp()).sum::<f64>().ln() - row[*target as usize]
    };
    batch
        .positions
        .iter()
        .zip(&batch.targets)
        .map(loss)
        .collect()
}

fn gradients(decoder: &Decoder, batch: &Batch) -> Vec<f64> {
    let (config, mut sum) = (
        StepConfig {
            memory: Memory::RECOMPUTE,
            head_chunk_rows: 256,
            dropout: 0.0,
        },
        Gradients::default(),
    );
    forward_backward(decoder, batch, config, [42, 0], &mut sum);
    tensors(decoder, &sum.all())
        .into_iter()
        .flat_map(|(_, _, values)| values)
        .map(f64::from)
        .collect()
}

fn by_hand(desk: &Desk, rows: usize) -> ByHand {
    let [prompts, completions] = columns(rows);
    let columns = vec![
        ("prompt", texts(prompts)),
        ("completion", texts(completions)),
    ];
    let source = source(desk, "rows.parquet", Format::Completion, columns);
    let corpus = open(desk, &encoder(&desk.path("base"), None), &[source], ALL).unwrap();
    let (decoder, all) = (model(desk), Rows::new(&corpus, (0..rows as u32).collect()));
    let alone: Vec<Batch> = (0..rows as u32).map(|row| all.batch(&[row])).collect();
    ByHand {
        losses: alone.iter().map(|batch| losses(&decoder, batch)).collect(),
        gradients: alone
            .iter()
            .map(|batch| gradients(&decoder, batch))
            .collect(),
    }
}

impl ByHand {
    /// The weighted sum of some rows: of their summed losses, and the norm of that of their
    /// gradients.
    fn sum(&self, rows: Range<usize>, weight: impl Fn(usize) -> f64) -> [f64; 2] {
        let loss = rows
            .clone()
            .map(|row| weight(row) * self.losses[row].iter().sum::<f64>())
            .sum();
        let of = |place: usize| {
            rows.clone()
                .map(|row| weight(row) * self.gradients[row][place])
                .sum::<f64>()
        };
        [
            loss,
            (0..self.gradients[0].len())
                .map(|place| of(place).powi(2))
                .sum::<f64>()
                .sqrt(),
        ]
    }

    /// Loss and gradient norm of the mean over every trained token of some rows.
    fn mean(&self, rows: Range<usize>) -> [f64; 2] {
        let trained: usize = self.losses[rows.clone()].iter().map(Vec::len).sum();
        self.sum(rows, |_| 1.0 / trained as f64)
    }

    /// What the mean over rows of each row's own mean would be.
    fn mean_of_means(&self, rows: Range<usize>) -> [f64; 2] {
        let count = rows.len() as f64;
        self.sum(rows, |row| 1.0 / count / self.losses[row].len() as f64)
    }
}

/// Loss and gradient norm of each step of a run that changes no weight, and its trained tokens.
fn steps(desk: &Desk, overrides: &[&str]) -> Vec<([f64; 2], u64)> {
    let fixed = [
        "train",
        "recipe.yaml",
        "--overwrite",
        "datasets.0.format=completion",
        "training.sequence_len=128",
    ];
    let still = [
        "adapter.init_lora_weights=false",
        "training.learning_rate=1e-30",
        "training.shuffle=false",
    ];
    desk.run(&[&fixed[..], &still, overrides].concat())
        .says("a run", 0, &[]);
    let lines = desk.read_text("run/metrics.jsonl");
    let steps = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &Value| line.get("loss").is_some());
    let number = |step: &Value, key: &str| step[key].as_f64().unwrap();
    steps
        .map(|step| {
            (
                [number(&step, "loss"), number(&step, "grad_norm")],
                step["trained_tokens"].as_u64().unwrap(),
            )
        })
        .collect()
}

fn largest_share([loss, norm]: [f64; 2], expected: [f64; 2]) -> f64 {
    (loss / expected[0] - 1.0)
        .abs()
        .max((norm / expected[1] - 1.0).abs())
}

/// huggingface/transformers#24725, huggingface/trl#2175: each micro-batch gave its own mean, and
/// the step the mean of those.
#[test]
fn mean_of_means_under_gradient_accumulation() {
    let desk = Desk::new();
    let by_hand = by_hand(&desk, 32);
    let (expected, wrong) = (by_hand.mean(0..32), by_hand.mean_of_means(0..32));
    let differs = |index: usize| (wrong[index] / expected[index] - 1.0).abs();
    assert!(
        differs(0) > 1000.0 * ROUNDING && differs(1) > 1000.0 * ROUNDING,
        "{expected:?}, {wrong:?}"
    );
    let trained: usize = by_hand.losses.iter().map(Vec::len).sum();
    for (micro_batch, accumulation) in [(1, 32), (32, 1), (8, 4), (5, 7)] {
        let sizes = [
            format!("training.micro_batch_size={micro_batch}"),
            format!("training.gradient_accumulation_steps={accumulation}"),
            "training.max_steps=1".to_owned(),
        ];
        let steps = steps(&desk, &sizes.each_ref().map(String::as_str));
        let (found, tokens) = steps[0];
        let off = largest_share(found, expected);
        println!(
            "{micro_batch} x {accumulation}: {found:?}, by hand {expected:?}, {off:.1e} off; \
            mean of means {wrong:?}"
        );
        assert_eq!((steps.len(), tokens), (1, trained as u64));
        assert!(off < ROUNDING, "{micro_batch} x {accumulation}: {off}");
    }
}

/// huggingface/transformers#38872, #39659: the last window of an epoch had fewer micro-batches and
/// was divided by the full number of them.
#[test]
fn last_partial_window_scaled_wrong() {
    let desk = Desk::new();
    let by_hand = by_hand(&desk, 9);
    let sizes = [
        "training.max_steps=",
        "training.num_epochs=2",
        "training.micro_batch_size=2",
    ];
    let steps = steps(
        &desk,
        &[&sizes[..], &["training.gradient_accumulation_steps=2"]].concat(),
    );
    let windows = [0..4, 4..8, 8..9, 0..4, 4..8, 8..9];
    assert_eq!(steps.len(), windows.len());
    for (rows, (found, _)) in windows.into_iter().zip(&steps) {
        let off = largest_share(*found, by_hand.mean(rows.clone()));
        println!("rows {rows:?}: {found:?}, {off:.1e} off");
        assert!(off < ROUNDING, "{rows:?}: {off}");
    }
}

/// Losses of the second of two rows in a batch.
fn of_second(decoder: &Decoder, rows: [&TokenRow; 2]) -> Vec<f32> {
    let of_first = rows[0].trained.iter().filter(|trained| **trained).count();
    score(decoder, &batch_of(rows.map(Clone::clone).to_vec()), 256).split_off(of_first)
}

fn text_row(desk: &Desk, text: &str) -> TokenRow {
    let encoding = encoder(&desk.path("base"), None)
        .tokenizer
        .encode(text, true)
        .unwrap();
    let trained = (0..encoding.ids.len()).map(|place| place > 0).collect();
    TokenRow {
        ids: encoding.ids,
        trained,
    }
}

fn largest_difference(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len());
    left.iter()
        .zip(right)
        .map(|(left, right)| (left - right).abs())
        .fold(0.0, f32::max)
}

/// huggingface/nanoVLM#204, DeepOpt-com/WrinkleFree-Monorepo#53: documents that share a row of a
/// batch saw one another. A step over packs is the step over their rows alone.
#[test]
fn packing_leaks_across_documents() {
    let desk = Desk::new();
    let by_hand = by_hand(&desk, 32);
    let sizes = [
        "training.micro_batch_size=2",
        "training.gradient_accumulation_steps=99",
        "training.max_steps=1",
    ];
    let (found, _) = steps(
        &desk,
        &[&sizes[..], &["training.sample_packing=true"]].concat(),
    )[0];
    let off = largest_share(found, by_hand.mean(0..32));
    println!("packed: {found:?}, {off:.1e} off");
    assert!(off < ROUNDING, "packed: {off}");

    let decoder = model(&desk);
    let [first, other, second] =
        ["fever is heat", "a b c d e f g h", "so what"].map(|text| text_row(&desk, text));
    let beside = [&first, &other].map(|row| of_second(&decoder, [row, &second]));
    assert!(
        largest_difference(&beside[0], &beside[1]) < 1e-5,
        "the second document's losses depend on the first"
    );

    let joined = TokenRow {
        ids: [&*first.ids, &second.ids].concat(),
        trained: [&*first.trained, &second.trained].concat(),
    };
    let behind = score(&decoder, &batch_of(vec![joined]), 256).split_off(first.ids.len() - 1);
    assert!(
        largest_difference(&beside[0], &behind) > 1e-3,
        "one that is seen shows"
    );
}

/// Dot products of features 1 apart, rotated to positions that begin at `start`.
fn rotated_products(decoder: &Decoder, start: usize) -> Vec<f32> {
    let rope = decoder.spec.layers[0].mixer.rope().unwrap();
    let (length, width) = (16, rope.head_dim);
    let values: Vec<f32> = (0..length * width)
        .map(|index| (index as f32 * 0.7).sin())
        .collect();
    let x = Tensor::<4>::from_data(
        TensorData::new(values, [1, length, 1, width]),
        &Device::flex(),
    );
    let before = Tensor::zeros([1, start, 1, width], &Device::flex());
    let turned = rope.tables(start + length, &Device::flex()).rotate_keys(
        Tensor::cat(vec![before, x], 1),
        (0..(start + length) as u32).collect(),
    );
    let (left, right) = (
        turned.clone().narrow(1, start, length - 1),
        turned.narrow(1, start + 1, length - 1),
    );
    (left * right).sum_dim(3).into_data().iter().collect()
}

/// huggingface/nanoVLM#201: positions went on counting from one document to the next. Only the
/// distance of two tokens counts in a rotation, so what shows is the rounding: where positions
/// begin elsewhere, few numbers stay the same to the bit.
#[test]
fn positions_not_reset() {
    let desk = Desk::new();
    let decoder = model(&desk);
    let [row, longer] = [
        "fever is a high temperature",
        "so so so so so so so so so so so so",
    ]
    .map(|text| text_row(&desk, text));
    let alone = score(&decoder, &batch_of(vec![row.clone()]), 256);
    for first in [&row, &longer] {
        assert_eq!(of_second(&decoder, [first, &row]), alone);
    }
    let (right, other) = (
        rotated_products(&decoder, 0),
        rotated_products(&decoder, 40),
    );
    assert!(
        largest_difference(&right, &other) < 1e-4,
        "the same numbers but for rounding"
    );
    let same = right
        .iter()
        .zip(&other)
        .filter(|(right, other)| right.to_bits() == other.to_bits())
        .count();
    assert!(same < right.len() / 2, "{same} of {}", right.len());
}
