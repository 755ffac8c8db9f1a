//! Writes an adapter alone as a GGUF file, like llama.cpp's `convert_lora_to_gguf.py`, for `--lora`
//! beside a model of the same base.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::container::Info;
use super::{GgufError, Numbers, TensorPart, TensorType, Written, write};
use crate::adapter::AdapterError;
use crate::adapter::peft::{self, AdapterTensors, LastB};
use crate::files::safetensors::Archive;
use crate::model::gguf::{Architecture, GgufModule, Value, places};
use crate::model::{DecoderSpec, Folder};
use crate::report::Reporter;

/// Writes the adapter of a PEFT folder, made for the model in `base`, to the file `path`, in f32.
///
/// # Errors
/// The adapter is incomplete or not one of this base, llama.cpp has no architecture that computes
/// like the base, the file exists or cannot be written, or `interrupt` was raised.
pub fn write_gguf_adapter(
    adapter: &Path,
    base: &Path,
    path: &Path,
    interrupt: &AtomicBool,
    report: Reporter,
) -> Result<Written, GgufError> {
    let mut folder = Folder::open(base)?;
    peft::resize(&mut folder, adapter)?;
    let spec = folder.spec;
    let architecture = Architecture::of(&spec)?;
    let (config, archive) = (
        peft::read_config_on(adapter, &spec.modules())?,
        peft::open(adapter)?,
    );
    let stored = peft::stored_in(&archive, &config, &spec.modules())?;
    if let Some(vector) = config.vector {
        return Err(AdapterError::NoPlace {
            format: "llama.cpp's",
            vector,
        }
        .into());
    }
    // llama.cpp scales every module by alpha / r, so alpha is what makes that right for the first
    // one, rsLoRA's too.
    let alpha = stored
        .first()
        .map_or(1.0, |first| first.target.scale * first.target.rank as f64);
    let (mut parts, mut stacks) = (
        Vec::new(),
        BTreeMap::<String, Vec<(usize, Matrices)>>::new(),
    );
    let last = LastB::default();
    for stored in &stored {
        let matrices = Matrices::read(stored, (&archive, &last), architecture, &spec, alpha)?;
        for GgufModule {
            module,
            expert,
            half,
        } in places_of(&stored.target.module, architecture, &spec)?
        {
            let matrices = matrices.half(half);
            match expert {
                None => parts.extend(matrices.parts(&module)),
                Some(expert) => stacks.entry(module).or_default().push((expert, matrices)),
            }
        }
    }
    for (module, of_experts) in stacks {
        parts.extend(stacked(&module, of_experts, &spec));
    }
    let text = |key: &str, text: &str| (key.to_owned(), Value::Text(text.to_owned()));
    let pairs = [
        text("general.architecture", architecture.name),
        text("general.type", "adapter"),
        text("adapter.type", "lora"),
        ("adapter.lora.alpha".to_owned(), Value::F32(alpha as f32)),
    ];
    write(path, &pairs, &parts, interrupt, report)
}

/// Returns the places of a layer's module in the file.
fn places_of(
    module: &str,
    architecture: &'static Architecture,
    spec: &DecoderSpec,
) -> Result<Vec<GgufModule>, GgufError> {
    // What llama.cpp does with matrices of embedding and head depends on whether they are one
    // table. It adds nothing to the map that gives layers their own inputs.
    let in_layer = (0..spec.layers.len())
        .flat_map(|index| spec.layer_projections(index))
        .any(|linear| linear.name == module);
    let unnamed = || GgufError::Unnamed {
        module: module.to_owned(),
        name: architecture.name,
    };
    places(module, architecture, spec)
        .filter(|_| in_layer)
        .ok_or_else(unnamed)
}

/// The matrices A [r, in] and B [out, r] of a module, to be scaled by alpha / r.
struct Matrices {
    rank: usize,
    a: Vec<f32>,
    b: Vec<f32>,
}

impl Matrices {
    /// Reads the matrices. If alpha / r is not the module's scale, B is multiplied by the
    /// difference. B's rows get the same changes as the base's rows.
    fn read(
        stored: &AdapterTensors,
        (archive, last): (&Archive, &LastB),
        architecture: &'static Architecture,
        spec: &DecoderSpec,
        alpha: f64,
    ) -> Result<Self, GgufError> {
        let (module, rank) = (&stored.target.module, stored.target.rank);
        let [a, b] = stored.read(archive, last)?;
        let missing = stored.target.scale * rank as f64 / alpha;
        let b = b
            .into_iter()
            .map(|number| (f64::from(number) * missing) as f32)
            .collect();
        let change = architecture.change(module, "weight", spec);
        let b = change.of_rows().apply(b, rank);
        let inputs = a.len() / rank;
        let a = change.of_columns().apply(a, inputs);
        if !a.iter().chain(&b).all(|number| number.is_finite()) {
            return Err(GgufError::NotHeld {
                tensor: module.clone(),
                kind: TensorType::F32.name(),
            });
        }
        Ok(Self { rank, a, b })
    }

    /// Returns the matrices of one half of the outputs, or of all.
    fn half(&self, half: Option<usize>) -> Self {
        let rows = self.b.len() / self.rank;
        let b = match half {
            None => &self.b[..],
            Some(half) => &self.b[half * rows / 2 * self.rank..(half + 1) * rows / 2 * self.rank],
        };
        Self {
            rank: self.rank,
            a: self.a.clone(),
            b: b.to_vec(),
        }
    }

    fn parts<'a>(self, module: &str) -> [TensorPart<'a>; 2] {
        let Self { rank, a, b } = self;
        parts_of(
            module,
            [vec![rank, a.len() / rank], vec![b.len() / rank, rank]],
            [a, b],
        )
    }

    /// Returns the same product with a higher rank: zeros are added, and B grows as alpha / r
    /// shrinks.
    fn widened(self, rank: usize) -> Self {
        if rank == self.rank {
            return self;
        }
        let (mut a, larger) = (self.a, rank as f64 / self.rank as f64);
        a.resize(a.len() / self.rank * rank, 0.0);
        let row = |row: &[f32]| {
            let mut row: Vec<f32> = row
                .iter()
                .map(|number| (f64::from(*number) * larger) as f32)
                .collect();
            row.resize(rank, 0.0);
            row
        };
        Self {
            rank,
            a,
            b: self.b.chunks_exact(self.rank).flat_map(row).collect(),
        }
    }
}

/// Stacks A [experts, r, in] and B [experts, out, r] of one part of all experts of a layer. Experts
/// without an adapter add nothing.
fn stacked<'a>(
    module: &str,
    of_experts: Vec<(usize, Matrices)>,
    spec: &DecoderSpec,
) -> [TensorPart<'a>; 2] {
    let experts = spec
        .layers
        .iter()
        .find_map(|layer| layer.mlp.experts())
        .map_or(0, |experts| experts.router.experts);
    let rank = of_experts
        .iter()
        .map(|(_, matrices)| matrices.rank)
        .max()
        .unwrap_or(1);
    let wide: BTreeMap<usize, Matrices> = of_experts
        .into_iter()
        .map(|(expert, matrices)| (expert, matrices.widened(rank)))
        .collect();
    let [of_a, of_b] = wide
        .values()
        .next()
        .map_or([0; 2], |first| [first.a.len(), first.b.len()]);
    let (mut a, mut b) = (vec![0.0; experts * of_a], vec![0.0; experts * of_b]);
    for (expert, matrices) in wide {
        a[expert * of_a..][..of_a].copy_from_slice(&matrices.a);
        b[expert * of_b..][..of_b].copy_from_slice(&matrices.b);
    }
    parts_of(
        module,
        [
            vec![experts, rank, of_a / rank],
            vec![experts, of_b / rank, rank],
        ],
        [a, b],
    )
}

fn parts_of<'a>(
    module: &str,
    shapes: [Vec<usize>; 2],
    numbers: [Vec<f32>; 2],
) -> [TensorPart<'a>; 2] {
    let [a, b] = numbers;
    let [of_a, of_b] = shapes;
    let part = |end: &str, shape, numbers| TensorPart {
        info: Info {
            name: format!("{module}.weight.{end}"),
            shape,
            kind: TensorType::F32,
        },
        numbers: Numbers::Here(numbers),
    };
    [part("lora_a", of_a, a), part("lora_b", of_b, b)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_higher_rank_adds_the_same() {
        let matrices = Matrices {
            rank: 1,
            a: vec![1.0, 2.0, 3.0],
            b: vec![4.0, 5.0],
        }
        .widened(2);
        assert_eq!(
            (matrices.rank, matrices.a, matrices.b),
            (
                2,
                vec![1.0, 2.0, 3.0, 0.0, 0.0, 0.0],
                vec![8.0, 0.0, 10.0, 0.0]
            )
        );
    }
}
