use proptest::prelude::*;

use super::step::HELD_BACK;
use super::*;
use crate::adapter::LoraConfig;
use crate::model::{GatedSpec, GroupedSpec, LayerSpec, RecurrentSpec};
use crate::nn::rope::{RopeScaling, RopeSpec};
use crate::ops::{RecurrenceForm, Update};

/// A model of width 4 with two heads of 2 and one key head, a feed-forward width of 6 and 10
/// tokens.
fn spec(layers: usize) -> DecoderSpec {
    let rope = RopeSpec::new(2, 1e4, RopeScaling::Default);
    let layer = LayerSpec::new(GroupedSpec::new([2, 1, 2], rope), GatedSpec::new(6));
    DecoderSpec {
        tied_head: true,
        context: 1000,
        ..DecoderSpec::new(10, 4, vec![layer; layers])
    }
}

pub(in crate::plan) fn load(layers: usize, rank: usize, rows: MicroBatchRows) -> Load {
    let config = LoraConfig::all_linear(rank, 1.0);
    let trained = Trained::adapter(&config, &spec(layers)).expect("all projections are chosen");
    let spec = spec(layers);
    Load {
        spec,
        storage: ModelDtype::Float32.into(),
        trained,
        rule: Rule::AdamW,
        dropout: 0.0,
        noise: false,
        rows,
        accumulated: 1,
        evaluation: None,
        purpose: Purpose::Bench,
        place: MemoryPlace::Processor { threads: 1 },
        teacher: None,
    }
}

/// Three tokens through two blocks of rank 1, counted by hand. T = 3.
#[test]
fn two_small_blocks_are_counted_by_hand() {
    let load = load(2, 1, MicroBatchRows::dense(1, 3));
    let input: u64 = 3 * 4;
    let tape: u64 = 3 * (4 + 3) // input of q, k, v and their x A
        // attention: q, k, v, the result, and a sum for each of 6 queries
        + 3 * (4 + 2 + 2 + 4) + 3 * 2
        + 3 // o
        + 12 // x after attention, for the second norm
        + 3 * (4 + 2) // gate and up
        + 2 * 3 * 6 // gated unit
        + 3 * (6 + 1); // down
    let adapters = 8 + 6 + 6 + 8 + 10 + 10 + 10;
    // The output, its gradient, what was added to it, the mixture's tiles, and the gradients of the
    // adapters.
    let work = 4 * input + adapters;
    let gate_up = 2 * 3 * 6;
    let step = |gradients: u64, kept: u64, recomputed: u64, block: u64| StepParts {
        gradients_bytes: 4 * gradients,
        kept_bytes: 4 * (kept + 2 * input / HELD_BACK),
        recomputed_bytes: 4 * recomputed,
        block_bytes: 4 * block,
        head_bytes: 0,
    };
    let kept = load.parts(Memory::KEEP);
    assert_eq!(
        kept.step,
        step(2 * adapters, 2 * (input + tape), 0, work),
        "at the highest block"
    );
    let again = load.parts(Memory::RECOMPUTE);
    assert_eq!(
        again.step,
        step(2 * adapters, 2 * input + gate_up, tape, work),
        "at the highest block, with both inputs"
    );
    let one = load.parts(Memory { recomputed: 1 }).step;
    assert_eq!(
        one,
        step(2 * adapters, 2 * input + tape + gate_up, 0, work),
        "at the highest block, which is kept"
    );
    assert_eq!(one.bytes(), again.step.bytes());
    assert_eq!(
        (kept.base_bytes, kept.trained_bytes, kept.moments_bytes),
        (4 * 300, 4 * 2 * adapters, 8 * 2 * adapters)
    );
    assert_eq!(kept.peak_bytes(), kept.held_bytes() + kept.step.bytes());
    assert_eq!(kept.highest(), Phase::Step);

    assert_eq!(fewest_recomputed(&load, kept.peak_bytes()), Some(0));
    assert_eq!(fewest_recomputed(&load, kept.peak_bytes() - 1), Some(1));
    assert_eq!(fewest_recomputed(&load, again.peak_bytes() - 1), None);
}

/// One row of gradients for each partial sum of the tree of micro-batches, and one for the
/// micro-batch that is computed.
#[test]
fn partial_sums_of_micro_batches_are_counted() {
    let load = load(2, 1, MicroBatchRows::dense(1, 3));
    let gradients = |accumulated| {
        Load {
            accumulated,
            ..load.clone()
        }
        .parts(Memory::KEEP)
        .step
        .gradients_bytes
    };
    let row = 4 * load.trainable_parameters();
    for (accumulated, rows) in [(1, 1), (2, 2), (3, 2), (4, 3), (7, 3), (8, 4), (64, 7)] {
        assert_eq!(
            gradients(accumulated),
            rows * row,
            "{accumulated} micro-batches"
        );
    }
}

/// A vocabulary of 10 and a width of 4, one table that is embedding and head: 40 numbers.
#[test]
fn what_trains_of_embedding_and_head_is_counted_by_hand() {
    let plain = load(2, 1, MicroBatchRows::dense(1, 3)).parts(Memory::KEEP);
    let of = |change: fn(&mut LoraConfig)| {
        let mut config = LoraConfig::all_linear(1, 1.0);
        change(&mut config);
        let trained = Trained::adapter(&config, &spec(2)).expect("resolved");
        let parts = Load {
            trained,
            ..load(2, 1, MicroBatchRows::dense(1, 3))
        }
        .parts(Memory::KEEP);
        (
            parts.trained_bytes - plain.trained_bytes,
            plain.base_bytes - parts.base_bytes,
            parts,
        )
    };
    let (both, replaced, parts) =
        of(|config| config.tables.saved = vec!["embed_tokens".into(), "lm_head".into()]);
    assert_eq!(
        (both, replaced),
        (4 * 2 * 40, 4 * 40),
        "the base's table is nobody's any more"
    );
    assert_eq!(parts.moments_bytes, 2 * parts.trained_bytes);
    // The head's gradient waits for the row of all gradients.
    assert!(
        parts.step.bytes() >= parts.trained_bytes + 4 * 40,
        "{parts:?}"
    );
    let (one, kept, _) = of(|config| config.tables.saved = vec!["lm_head".into()]);
    assert_eq!(
        (one, kept),
        (4 * 40, 0),
        "the embedding is still the base's"
    );
    let (matrices, _, _) = of(|config| {
        config.targets.modules = crate::terms::Modules::Names(
            [
                "q_proj",
                "k_proj",
                "v_proj",
                "o_proj",
                "gate_proj",
                "up_proj",
                "down_proj",
                "lm_head",
            ]
            .map(str::to_owned)
            .to_vec(),
        );
    });
    assert_eq!(matrices, 4 * (10 + 4));
    let (rows, _, _) = of(|config| {
        config.tables.tokens = Some(crate::terms::TokenIndices::Embedding(vec![3, 5, 9]));
    });
    assert_eq!(rows, 4 * 3 * 4, "the head has the embedding's");
}

#[test]
fn every_weight_that_trains_has_a_gradient_and_two_moments() {
    let load = Load {
        trained: Trained::everything(&spec(2)),
        ..load(2, 1, MicroBatchRows::dense(1, 3))
    };
    let parts = load.parts(Memory::RECOMPUTE);
    assert_eq!(
        (parts.base_bytes, parts.trained_bytes, parts.moments_bytes),
        (0, 4 * 300, 8 * 300)
    );
    assert!(
        parts.step.gradients_bytes >= 4 * 44,
        "those of the head are there first"
    );
    assert_eq!(parts.update_bytes, 4 * 300);
}

#[test]
fn a_change_goes_no_further_than_it_has_to() {
    let whole = load(2, 16, MicroBatchRows::dense(8, 512));
    let with = |rows| whole.with_rows(rows).least_peak_bytes();
    let change = |allowed| whole.smallest_change(Some(16), allowed);
    let overrides = |allowed| change(allowed).map(|hint| hint.overrides);
    let batch = |size: usize, times: usize| {
        vec![
            format!("training.micro_batch_size={size}"),
            format!("training.gradient_accumulation_steps={times}"),
        ]
    };
    let with_one = |said: &[&str]| {
        [
            batch(1, 8),
            said.iter().map(|said| (*said).to_owned()).collect(),
        ]
        .concat()
    };
    let halves = change(with(MicroBatchRows::dense(8, 512)) - 1).expect("half fits");
    assert_eq!(halves.overrides, batch(4, 2));
    assert!(halves.peak_bytes < with(MicroBatchRows::dense(8, 512)));
    assert_eq!(overrides(halves.peak_bytes - 1), Some(batch(2, 4)));
    let one = Load {
        accumulated: 8,
        ..whole.with_rows(MicroBatchRows::dense(1, 512))
    };
    let narrow = change(one.least_peak_bytes() - 1).expect("a base of 16 bits fits");
    assert_eq!(
        narrow.overrides,
        with_one(&["training.model_dtype=bfloat16"])
    );
    assert_eq!(
        one.least_peak_bytes() - narrow.peak_bytes,
        2 * 2 * 140,
        "half of the matrices"
    );
    let packed = change(narrow.peak_bytes - 1).expect("a base of 4 bits fits");
    assert_eq!(
        packed.overrides,
        with_one(&["training.model_dtype=bfloat16", "adapter.method=qlora"])
    );
    let shorter = overrides(packed.peak_bytes - 1).expect("shorter rows fit");
    let narrow = ["training.model_dtype=bfloat16", "adapter.method=qlora"];
    assert_eq!(
        shorter,
        with_one(
            &[
                &narrow[..],
                &["training.sequence_len=256", "training.truncation=truncate"]
            ]
            .concat()
        )
    );
    let one = Load {
        storage: Storage {
            form: Some(QuantFormat::QLORA),
            ..ModelDtype::Bfloat16.into()
        },
        ..one
    };
    let smaller = overrides(
        one.with_rows(MicroBatchRows::dense(1, 64))
            .least_peak_bytes()
            - 1,
    )
    .expect("a smaller adapter fits");
    let shortest = [
        "training.sequence_len=64",
        "training.truncation=truncate",
        "adapter.r=8",
    ];
    assert_eq!(smaller, with_one(&[&narrow[..], &shortest].concat()));
    assert_eq!(overrides(1000), None);
}

#[test]
fn a_smaller_micro_batch_scores_as_few_rows() {
    let scored = |rows| Load {
        evaluation: Some(rows),
        ..load(2, 1, MicroBatchRows::dense(2, 64))
    };
    let change = scored(MicroBatchRows::dense(2, 512)).smallest_change(
        None,
        scored(MicroBatchRows::dense(1, 512)).least_peak_bytes(),
    );
    let Hint {
        overrides,
        peak_bytes,
    } = change.expect("one row at a time fits");
    assert_eq!(
        overrides,
        [
            "training.micro_batch_size=1",
            "training.gradient_accumulation_steps=2"
        ]
    );
    let one = Load {
        evaluation: Some(MicroBatchRows::dense(1, 512)),
        ..load(2, 1, MicroBatchRows::dense(1, 64))
    };
    assert_eq!(peak_bytes, one.least_peak_bytes());
}

#[test]
fn the_longest_rows_that_fit_do_and_the_next_do_not() {
    let load = load(2, 16, MicroBatchRows::dense(1, 2));
    let peak = |length| {
        load.with_rows(MicroBatchRows::dense(1, length))
            .least_peak_bytes()
    };
    assert_eq!(longest_that_fits(&load, peak(256), 64), Some(256));
    assert_eq!(longest_that_fits(&load, peak(512) - 1, 64), Some(256));
    assert_eq!(
        longest_that_fits(&load, u64::MAX, 64),
        Some(1000),
        "the model's context, though no power of two"
    );
    assert_eq!(longest_that_fits(&load, peak(64) - 1, 64), None);
}

#[test]
fn a_gpu_has_numbers_of_its_own_size_and_a_process_only_where_memory_is_shared() {
    let of = |dtype: ModelDtype, place| {
        Load {
            storage: dtype.into(),
            place,
            ..load(2, 1, MicroBatchRows::dense(1, 64))
        }
        .parts(Memory::KEEP)
    };
    let gpu = |is_shared| MemoryPlace::Gpu {
        half: Some(ModelDtype::Float16),
        is_shared,
    };
    let [wide, narrow] =
        [ModelDtype::Float32, ModelDtype::Float16].map(|dtype| of(dtype, gpu(false)));
    assert_eq!(wide.step.kept_bytes, 2 * narrow.step.kept_bytes);
    assert_eq!(
        wide.step.gradients_bytes, narrow.step.gradients_bytes,
        "what trains is f32"
    );
    assert!(narrow.base_bytes < wide.base_bytes && narrow.moments_bytes == wide.moments_bytes);
    assert_eq!((wide.loading_bytes, wide.saving_bytes), (0, 0));
    let held = wide.peak_bytes() - wide.process_bytes;
    assert_eq!(
        wide.process_bytes,
        POOL_BYTES + (held as f64 * POOL_SHARE) as u64
    );
    assert!(of(ModelDtype::Float32, gpu(true)).process_bytes > wide.process_bytes + PROCESS_BYTES);
    let processor = of(ModelDtype::Bfloat16, MemoryPlace::Processor { threads: 1 });
    assert!(
        processor.step.kept_bytes > wide.step.kept_bytes,
        "the CPU widens, and its allocator holds some back"
    );
}

#[test]
fn the_backward_of_a_recurrence_on_a_gpu_holds_more_than_the_stream() {
    let form = RecurrenceForm {
        update: Update::Delta,
        key_heads: 1,
        value_heads: 2,
        key_dim: 64,
        value_dim: 32,
    };
    let mixer = RecurrentSpec {
        module: "linear_attn",
        form,
        taps: 4,
        conv_bias: false,
        bias: false,
    };
    let layer = LayerSpec::new(mixer, GatedSpec::new(6));
    let mut load = load(1, 1, MicroBatchRows::dense(1, 50));
    load.spec.layers = vec![layer];
    load.trained = Trained::adapter(&LoraConfig::all_linear(1, 1.0), &load.spec)
        .expect("all projections are chosen");
    let [processor, gpu] = [
        MemoryPlace::Processor { threads: 1 },
        MemoryPlace::Gpu {
            half: None,
            is_shared: false,
        },
    ]
    .map(|place| {
        let load = Load {
            place,
            ..load.clone()
        };
        load.parts(Memory::KEEP).step.block_bytes
    });
    // e and du of 2 x 32 features, dq and dk of 2 x 64, 6 numbers of each head, and a 64th of its
    // state and of a number for each row.
    assert_eq!(
        gpu - processor,
        4 * 50 * (2 * 64 + 2 * 128 + 2 * 6 + 2 * 33)
    );
}

proptest! {
    #[test]
    fn more_rows_or_tokens_never_need_less(
        count in 1usize..9,
        length in 2usize..200,
        recomputed in 0usize..4,
        rank in 1usize..20,
    ) {
        let peak = |rows| load(3, rank, rows).parts(Memory { recomputed }).peak_bytes();
        let rows = MicroBatchRows::dense(count, length);
        prop_assert!(peak(rows) <= peak(MicroBatchRows::dense(count + 1, length)));
        prop_assert!(peak(rows) <= peak(MicroBatchRows::dense(count, length + 1)));
    }

    /// One block alone is an exception: its tape is whole at the highest moment either way.
    #[test]
    fn more_recomputation_never_needs_more(
        count in 1usize..9,
        length in 2usize..200,
        layers in 2usize..6,
        rank in 1usize..20,
        full: bool,
    ) {
        let mut load = load(layers, rank, MicroBatchRows::dense(count, length));
        if full {
            load.trained = Trained::everything(&load.spec);
        }
        let peaks: Vec<u64> = (0..=layers)
            .map(|recomputed| load.parts(Memory { recomputed }).peak_bytes())
            .collect();
        prop_assert!(peaks.is_sorted_by(|fewer, more| fewer >= more), "{peaks:?}");
        prop_assert_eq!(peaks[layers], load.least_peak_bytes());
    }
}

/// Matrices of 4 x 4, 2 x 4 and 4 x 6 elements take half a byte each, and each matrix has one block
/// whose absmax is a byte, with an f32 beside it.
#[test]
fn packed_projections_are_counted_by_hand() {
    let packed = |place, packs_head, offloads_embedding| {
        let storage = Storage {
            form: Some(QuantFormat::QLORA),
            packs_head,
            offloads_embedding,
            ..ModelDtype::Float32.into()
        };
        let mut load = Load {
            storage,
            place,
            ..load(2, 1, MicroBatchRows::dense(1, 3))
        };
        load.spec.tied_head = false;
        load.parts(Memory::KEEP)
    };
    let (tables, norms) = (2 * 4 * 40, 4 * 20);
    let processor = MemoryPlace::Processor { threads: 1 };
    let gpu = MemoryPlace::Gpu {
        half: None,
        is_shared: false,
    };
    let layer = 2 * (8 + 5) + 2 * (4 + 5) + 3 * (12 + 5);
    assert_eq!(
        packed(processor, false, false).base_bytes,
        tables + norms + 2 * layer
    );
    assert_eq!(
        packed(processor, false, true).base_bytes,
        tables + norms + 2 * layer,
        "it is there anyway"
    );
    assert_eq!(
        packed(processor, true, false).base_bytes,
        tables / 2 + norms + 2 * layer + 20 + 5
    );
    // A GPU has 4 bytes an absmax, and one matrix at a time in numbers.
    let layer = 2 * (8 + 4) + 2 * (4 + 4) + 3 * (12 + 4);
    assert_eq!(
        packed(gpu, false, false).base_bytes,
        tables + norms + 2 * layer
    );
    assert_eq!(
        packed(gpu, true, true).base_bytes,
        norms + 2 * layer + 20 + 4
    );
    let mut wide = Load {
        place: gpu,
        ..load(2, 1, MicroBatchRows::dense(1, 3))
    };
    wide.storage = Storage {
        form: Some(QuantFormat::QLORA),
        packs_head: true,
        ..ModelDtype::Float32.into()
    };
    (wide.spec.tied_head, wide.spec.vocabulary) = (false, 1 << 26);
    assert_eq!(
        wide.unpacked_bytes(),
        PIECE_BYTES,
        "a head is never whole in numbers"
    );
    let dense = Load {
        place: gpu,
        ..load(2, 1, MicroBatchRows::dense(1, 3))
    }
    .parts(Memory::KEEP);
    assert_eq!(
        packed(gpu, false, false).step.block_bytes - dense.step.block_bytes,
        4 * 24
    );
    assert_eq!(
        packed(processor, false, false).step,
        load(2, 1, MicroBatchRows::dense(1, 3))
            .parts(Memory::KEEP)
            .step
    );
}

/// A teacher adds its weights and the memory of its forward; one that is read out before training
/// adds only what training does not need anyway.
#[test]
fn a_teacher_is_counted_beside_the_student_or_before_it() {
    let student = load(2, 1, MicroBatchRows::dense(1, 3));
    let teacher = load(6, 1, student.rows);
    let teacher = Load {
        trained: Trained::nothing(&teacher.spec),
        ..teacher
    };
    let with = |is_gone| {
        let load = teacher.clone();
        Load {
            teacher: Some(Box::new(TeacherLoad { load, is_gone })),
            ..student.clone()
        }
        .parts(Memory::KEEP)
    };
    let (alone, beside, before) = (student.parts(Memory::KEEP), with(false), with(true));
    assert_eq!(beside.teacher_bytes, teacher.base_bytes());
    assert!(beside.teacher_bytes > alone.base_bytes);
    assert!(beside.step.bytes() >= alone.step.bytes());
    assert!(beside.peak_bytes() >= alone.peak_bytes() + beside.teacher_bytes);
    assert_eq!((before.teacher_bytes, before.step), (0, alone.step));
    assert!(before.loading_bytes > alone.loading_bytes);
    assert!(before.peak_bytes() < beside.peak_bytes());
}
