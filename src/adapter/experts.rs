//! Adapters of routed experts as PEFT has them: of each expert's modules, or of the stacked
//! parameters of a layer (`target_parameters`, `ParamWrapper` of
//! <https://github.com/huggingface/peft>, `tuners/lora/layer.py`), whose A and B are one matrix
//! each for all experts.

use std::collections::{BTreeMap, BTreeSet};

use super::Target;
use crate::files::safetensors::Named;
use crate::model::{EXPERTS, LinearSpec};
use crate::nn::lora::Portion;

/// Last names of an expert's modules, with the parameter and the index in it.
const MODULES: [(&str, &str, usize); 6] = [
    ("gate_proj", GATE_UP, 0),
    ("w1", GATE_UP, 0),
    ("up_proj", GATE_UP, 1),
    ("w3", GATE_UP, 1),
    ("down_proj", DOWN, 0),
    ("w2", DOWN, 0),
];
const GATE_UP: &str = "gate_up_proj";
const DOWN: &str = "down_proj";

/// A linear map of a routed expert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Routed {
    /// The parameter of all experts that contains the map, such as
    /// `model.layers.0.mlp.experts.gate_up_proj`.
    pub parameter: String,
    /// Index of the expert.
    pub expert: usize,
    /// Index of the map among an expert's maps in that parameter.
    pub place: usize,
    /// Whether the checkpoint has the map as a module.
    pub is_module: bool,
}

impl Routed {
    /// Reads the name of a linear map; `None` where it does not belong to a routed expert.
    pub fn of(name: &str) -> Option<Self> {
        let (before, behind) = name.split_once(".experts.")?;
        let (first, second) = behind.split_once('.')?;
        if let Ok(expert) = first.parse() {
            // transformers 5 stacks modules in `mlp`, whatever theirs is called.
            let (layer, _) = before.rsplit_once('.')?;
            let (_, last, place) = MODULES.into_iter().find(|(module, ..)| *module == second)?;
            return Some(Self {
                parameter: format!("{layer}.{EXPERTS}.{last}"),
                expert,
                place,
                is_module: true,
            });
        }
        let expert = second.parse().ok()?;
        Some(Self {
            parameter: format!("{before}.experts.{first}"),
            expert,
            place: 0,
            is_module: false,
        })
    }

    /// Whether one of `target_parameters` names its parameter.
    pub fn is_of(&self, parameters: &[String]) -> bool {
        let matches = |wanted: &String| {
            self.parameter
                .strip_suffix(wanted.as_str())
                .is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        parameters.iter().any(matches)
    }

    /// Returns the part of an adapted parameter that this map is.
    pub fn portion(&self) -> Portion {
        if self.place == 0 {
            Portion::Parameter
        } else {
            Portion::Behind
        }
    }
}

/// A parameter of all experts of a layer with an adapter.
#[derive(Debug, Default)]
pub(super) struct Stack {
    /// Number of experts.
    pub count: usize,
    /// Number of B's rows for each map of an expert.
    pub outputs: Vec<usize>,
    /// The module with which PEFT wraps the parameter: the two parameters of a layer are wrapped
    /// one in the other.
    pub key: String,
}

/// Returns the parameters with adapters, by name, among targets and their linear maps.
pub(super) fn stacks<'a>(
    targets: impl Iterator<Item = (&'a Target, &'a LinearSpec)>,
) -> BTreeMap<String, Stack> {
    let mut stacks: BTreeMap<String, Stack> = BTreeMap::new();
    for (target, linear) in targets.filter(|(target, _)| target.portion != Portion::Whole) {
        let Some(routed) = Routed::of(&target.module) else {
            continue;
        };
        let stack = stacks.entry(routed.parameter.clone()).or_default();
        stack.count = stack.count.max(routed.expert + 1);
        if routed.expert == 0 {
            stack.outputs.push(linear.outputs);
        }
    }
    let keys = keys(&stacks.keys().cloned().collect());
    for (parameter, stack) in &mut stacks {
        stack.key.clone_from(&keys[parameter]);
    }
    stacks
}

/// Returns PEFT's module for each parameter: that of the experts, and for gate and up the one
/// inside it where down has an adapter too.
fn keys(parameters: &BTreeSet<String>) -> BTreeMap<String, String> {
    let key = |parameter: &String| {
        let (module, last) = parameter.rsplit_once('.').unwrap_or(("", parameter));
        let is_inside = last == GATE_UP && parameters.contains(&format!("{module}.{DOWN}"));
        (
            parameter.clone(),
            if is_inside {
                format!("{module}.base_layer")
            } else {
                module.to_owned()
            },
        )
    };
    parameters.iter().map(key).collect()
}

/// Takes one expert's B [out, r] from the joint one, [out of all maps, r · count]: the number of
/// rank k and expert e is in column k · count + e.
pub(super) fn b_of(
    all: &[f32],
    stack: &Stack,
    rank: usize,
    expert: usize,
    place: usize,
) -> Vec<f32> {
    let (first, width) = (
        stack.outputs[..place].iter().sum::<usize>(),
        rank * stack.count,
    );
    let rows = all
        .chunks_exact(width)
        .skip(first)
        .take(stack.outputs[place]);
    rows.flat_map(|row| (0..rank).map(|k| row[k * stack.count + expert]))
        .collect()
}

/// Joins the tensors of experts' maps, named `<module>.lora_A.weight` and `.lora_B.weight`, into
/// those of their parameters, where `is_stacked` says that the adapter belongs to a parameter.
pub(super) fn joined(tensors: Vec<Named>, is_stacked: impl Fn(&str) -> bool) -> Vec<Named> {
    let mut stacked: BTreeMap<_, Vec<(Routed, Named)>> = BTreeMap::new();
    let mut rest = Vec::new();
    for tensor in tensors {
        let split = ["lora_A", "lora_B"]
            .into_iter()
            .find_map(|part| Some((tensor.0.strip_suffix(&format!(".{part}.weight"))?, part)));
        match split
            .filter(|(module, _)| is_stacked(module))
            .and_then(|(module, part)| Some((Routed::of(module)?, part)))
        {
            Some((routed, part)) => stacked
                .entry((routed.parameter.clone(), part))
                .or_default()
                .push((routed, tensor)),
            None => rest.push(tensor),
        }
    }
    let keys = keys(
        &stacked
            .keys()
            .map(|(parameter, _)| parameter.clone())
            .collect(),
    );
    for ((parameter, part), mut tensors) in stacked {
        tensors.sort_by_key(|(routed, _)| (routed.expert, routed.place));
        let count = tensors.last().map_or(0, |(routed, _)| routed.expert + 1);
        let (shape, numbers) = if part == "lora_A" {
            joined_a(tensors)
        } else {
            joined_b(&tensors, count)
        };
        rest.push((
            format!("{}.{part}.weight", keys[&parameter]),
            shape,
            numbers,
        ));
    }
    rest
}

/// Joins A [r, in] of each expert, one below the other.
fn joined_a(tensors: Vec<(Routed, Named)>) -> (Vec<usize>, Vec<f32>) {
    let inputs = tensors[0].1.1[1];
    let numbers: Vec<f32> = tensors
        .into_iter()
        .flat_map(|(_, (_, _, numbers))| numbers)
        .collect();
    (vec![numbers.len() / inputs, inputs], numbers)
}

/// The inverse of [`b_of`].
fn joined_b(tensors: &[(Routed, Named)], count: usize) -> (Vec<usize>, Vec<f32>) {
    let rank = tensors[0].1.1[1];
    let of_first: Vec<usize> = tensors
        .iter()
        .filter(|(routed, _)| routed.expert == 0)
        .map(|(_, (_, shape, _))| shape[0])
        .collect();
    let width = rank * count;
    let mut all = vec![0.0; of_first.iter().sum::<usize>() * width];
    for (Routed { expert, place, .. }, (_, _, numbers)) in tensors {
        let first = of_first[..*place].iter().sum::<usize>();
        for (row, numbers) in numbers.chunks_exact(rank).enumerate() {
            for (k, number) in numbers.iter().enumerate() {
                all[(first + row) * width + k * count + expert] = *number;
            }
        }
    }
    (vec![all.len() / width, width], all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(name: &str) -> Option<(String, usize, usize, bool)> {
        Routed::of(name).map(|routed| {
            (
                routed.parameter,
                routed.expert,
                routed.place,
                routed.is_module,
            )
        })
    }

    #[test]
    fn names_of_experts_are_told_from_others() {
        let parameter = |last: &str| format!("model.layers.3.mlp.experts.{last}");
        assert_eq!(
            routed("model.layers.3.block_sparse_moe.experts.11.w3"),
            Some((parameter("gate_up_proj"), 11, 1, true))
        );
        assert_eq!(
            routed("model.layers.3.mlp.experts.0.down_proj"),
            Some((parameter("down_proj"), 0, 0, true))
        );
        assert_eq!(
            routed("model.layers.3.mlp.experts.gate_up_proj.2"),
            Some((parameter("gate_up_proj"), 2, 0, false))
        );
        assert_eq!(
            routed("model.layers.3.experts.down_proj.1"),
            Some(("model.layers.3.experts.down_proj".to_owned(), 1, 0, false))
        );
        assert_eq!(
            routed("model.layers.3.block_sparse_moe.experts.gate_up_proj.1"),
            Some((
                "model.layers.3.block_sparse_moe.experts.gate_up_proj".to_owned(),
                1,
                0,
                false
            ))
        );
        for other in [
            "model.layers.3.mlp.shared_experts.down_proj",
            "model.layers.3.mlp.down_proj",
            "model.layers.3.self_attn.q_proj",
        ] {
            assert_eq!(routed(other), None, "{other}");
        }
        let one = Routed::of("model.layers.3.mlp.experts.0.up_proj").expect("an expert's");
        let wanted = |names: &[&str]| {
            one.is_of(
                &names
                    .iter()
                    .map(|name| (*name).to_owned())
                    .collect::<Vec<_>>(),
            )
        };
        assert!(wanted(&["mlp.experts.gate_up_proj"]) && wanted(&["x", "gate_up_proj"]));
        assert!(!wanted(&["down_proj"]) && !wanted(&["up_proj"]) && !wanted(&[]));
    }

    #[test]
    fn what_is_joined_comes_apart_again() {
        let (rank, inputs, count, outputs) = (2, 3, 4, [5, 5]);
        let mut tensors = Vec::new();
        let mut number = 0.0;
        let mut numbers = |count: usize| {
            (0..count)
                .map(|_| {
                    number += 1.0;
                    number
                })
                .collect::<Vec<f32>>()
        };
        for expert in 0..count {
            let name = |part: &str, end: &str| {
                format!("model.layers.0.mlp.experts.{expert}.{part}.{end}.weight")
            };
            tensors.push((
                name("gate_proj", "lora_A"),
                vec![rank, inputs],
                numbers(rank * inputs),
            ));
            for (part, outputs) in ["gate_proj", "up_proj"].into_iter().zip(outputs) {
                tensors.push((
                    name(part, "lora_B"),
                    vec![outputs, rank],
                    numbers(outputs * rank),
                ));
            }
        }
        let joined = joined(tensors.clone(), |_| true);
        let shapes: Vec<_> = joined
            .iter()
            .map(|(name, shape, _)| (name.as_str(), shape.clone()))
            .collect();
        let key = "model.layers.0.mlp.experts";
        let [a, b] = ["lora_A", "lora_B"].map(|part| format!("{key}.{part}.weight"));
        assert_eq!(
            shapes,
            [
                (a.as_str(), vec![rank * count, inputs]),
                (b.as_str(), vec![10, rank * count])
            ]
        );
        let stack = Stack {
            count,
            outputs: outputs.to_vec(),
            key: key.to_owned(),
        };
        for (name, _, numbers) in &tensors {
            let routed =
                Routed::of(name.rsplit_once(".lora").expect("a matrix").0).expect("an expert's");
            let own = if name.contains("lora_B") {
                b_of(&joined[1].2, &stack, rank, routed.expert, routed.place)
            } else {
                joined[0].2[routed.expert * rank * inputs..][..rank * inputs].to_vec()
            };
            assert_eq!(own, *numbers, "{name}");
        }
    }
}
