//! The teacher of a distillation: a model of the same tokens, or columns of the data.

use std::path::{Path, PathBuf};

use super::base::{Base, hub_id, noted};
use super::filled::Filled;
use crate::data::tokenize::Tokenizer;
use crate::data::visible;
use crate::device;
use crate::fault::{Fault, shell_word};
use crate::hub::stores::find_stored;
use crate::hub::{Cache, Environment};
use crate::model::{Folder, Storage, base_folder, is_base};
use crate::quant::{BlockSize, QuantFormat};
use crate::recipe::{Objective, Said};
use crate::terms::{Device, ModelDtype, Quantization};
use crate::train::RunFolder;

/// The word for tokens that the data bring.
const DATA: &str = "data";

/// What a student learns from.
#[derive(Debug)]
pub enum Teacher {
    /// The most likely tokens that the rows bring, as `rankine teach` writes them.
    Data,
    /// A model.
    Model(Box<TeacherModel>),
}

/// The model that a student learns from.
#[derive(Debug)]
pub struct TeacherModel {
    /// Its folder.
    pub folder: PathBuf,
    /// Its parsed `config.json`.
    pub model: Folder,
    /// The format in which its projections are packed, if the recipe asks for one.
    form: Option<QuantFormat>,
    /// How many of its most likely tokens are computed once and kept; `None` where it runs beside
    /// the student.
    pub cached: Option<usize>,
}

impl TeacherModel {
    /// Returns how its weights are kept on a device.
    pub fn storage(&self, on: Device) -> Storage {
        let asked = Storage {
            form: self.form,
            ..ModelDtype::Auto.into()
        };
        // Of weights that cannot be read, loading tells.
        let kept = self.model.kept_in(asked, device::halves(on));
        kept.unwrap_or(Storage {
            dtype: ModelDtype::Float32,
            ..asked
        })
    }
}

/// Fills the keys of a teacher and looks it up; `base` is the student's.
pub(super) fn teacher(
    said: &Objective,
    base: Option<&Base>,
    sequence_len: usize,
    filled: &mut Filled,
    faults: &mut Vec<Fault>,
) -> Option<Teacher> {
    let named = said.teacher.as_ref()?;
    let name = filled.plain("objective.teacher", Some(named), String::new());
    if name == DATA {
        refuse_for_data(said, faults);
        return Some(Teacher::Data);
    }
    let cached = filled.plain(
        "objective.cache_teacher",
        said.cache_teacher.as_ref(),
        false,
    );
    let top_k = said.loss_top_k.as_ref();
    if let Some(top_k) = top_k.filter(|_| !cached) {
        let fault = Fault::new(
            "objective.loss_top_k goes with `cache_teacher: true`: a teacher that runs beside the \
            student gives its whole distribution",
        );
        let hint = "set `cache_teacher: true`, or remove `loss_top_k`";
        faults.push(fault.at(&top_k.place).hint(hint));
    }
    let cached = cached.then(|| filled.plain("objective.loss_top_k", top_k, 64));
    let word = filled.word(
        "objective.teacher_quantization",
        said.teacher_quantization.as_ref(),
        Quantization::None,
    );
    let folder = found(named, faults)?;
    let before = faults.len();
    let model = noted(Folder::open(&folder), &named.place, faults)?;
    noted(model.check_weights(), &named.place, faults);
    if let Some(said) = said.teacher_quantization.as_ref()
        && word == Quantization::Gguf
        && !matches!(model.stored_form(), Ok(Some(QuantFormat::Blocks(_))))
    {
        let message = "objective.teacher_quantization: `gguf` takes the blocks of a GGUF file, and \
            the teacher has none";
        let hint = "remove the key, or choose `nf4`, `fp4` or `int8`";
        faults.push(Fault::new(message).at(&said.place).hint(hint));
    }
    let tokenizer = noted(Tokenizer::open(&folder), &named.place, faults)?;
    let place = |fault: Fault| fault.at(&named.place);
    if let Some(base) = base {
        faults.extend(other_tokens(&base.tokenizer, &tokenizer).map(place));
        let both = model.spec.vocabulary.min(base.model.spec.vocabulary);
        if let Some(most) = cached.filter(|most| *most > both) {
            let fault = Fault::new(format!(
                "objective.loss_top_k is {most}, teacher and base have {both} tokens in common"
            ));
            faults.push(place(fault).hint("set a smaller `loss_top_k`"));
        }
    }
    if model.spec.learns_positions && sequence_len > model.spec.context {
        let fault = Fault::new(format!(
            "training.sequence_len is {sequence_len}, the teacher has learned {} positions",
            model.spec.context
        ));
        faults.push(place(fault).hint(format!(
            "set `training.sequence_len: {}` or less",
            model.spec.context
        )));
    }
    (faults.len() == before).then(|| {
        Teacher::Model(Box::new(TeacherModel {
            folder,
            model,
            form: QuantFormat::of(word, BlockSize::DEFAULT, false),
            cached,
        }))
    })
}

/// Returns the folder of the named teacher: a folder, a run that trained all weights, or a Hub id
/// in the cache.
fn found(named: &Said<String>, faults: &mut Vec<Fault>) -> Option<PathBuf> {
    let (name, folder) = (&named.value, Path::new(&named.value));
    if let Some(id) = hub_id(name) {
        let environment = Environment::read();
        let found = Cache::at(&environment.cache)
            .find(&id)
            .map_err(|missing| environment.not_cached(&id, shell_word(&id.to_string()), missing));
        return noted(found, &named.place, faults).map(|snapshot| snapshot.folder);
    }
    if let Some(stored) = find_stored(name) {
        let path = noted(stored, &named.place, faults)?.path;
        return noted(base_folder(&path), &named.place, faults);
    }
    if folder.is_file() && is_base(folder) {
        return noted(base_folder(folder), &named.place, faults);
    }
    if folder.join("config.json").is_file() {
        return Some(folder.to_owned());
    }
    let of_run = folder.join(RunFolder::MODEL);
    if of_run.join("config.json").is_file() {
        return Some(of_run);
    }
    let fault = if RunFolder::adapter_in(folder).is_some() {
        Fault::new(format!(
            "objective.teacher: `{name}` holds an adapter, expected a model"
        ))
        .hint("merge it first: `rankine merge`")
    } else {
        Fault::new(format!(
            "objective.teacher: `{name}` is neither the folder of a model, a Hub id, nor `{DATA}`"
        ))
        .hint("name a folder with `config.json`, or a Hub id that was pulled")
    };
    faults.push(fault.at(&named.place));
    None
}

/// Refuses what only a model has.
fn refuse_for_data(said: &Objective, faults: &mut Vec<Fault>) {
    let keys = [
        said.cache_teacher
            .as_ref()
            .filter(|said| said.value)
            .map(|said| ("cache_teacher", &said.place)),
        said.loss_top_k
            .as_ref()
            .map(|said| ("loss_top_k", &said.place)),
        said.teacher_quantization
            .as_ref()
            .map(|said| ("teacher_quantization", &said.place)),
    ];
    for (key, place) in keys.into_iter().flatten() {
        let fault = Fault::new(format!(
            "objective.{key} goes with a model as `teacher`, and `{DATA}` is what rows bring"
        ));
        faults.push(fault.at(place).hint(format!("remove `{key}`")));
    }
}

/// Returns the fault of a teacher whose ids are those of other tokens. Names of tokenizers and
/// padded rows of their tables say nothing of it.
fn other_tokens(student: &Tokenizer, teacher: &Tokenizer) -> Option<Fault> {
    let (id, of_student, of_teacher) = student.first_other_token(teacher)?;
    let shown = |token: Option<String>| {
        token.map_or_else(
            || "no token".to_owned(),
            |token| format!("`{}`", visible(&token)),
        )
    };
    let fault = Fault::new(format!(
        "objective.teacher: its token {id} is {}, that of the base is {}",
        shown(of_teacher),
        shown(of_student)
    ));
    Some(fault.hint(
        "distillation compares distributions over the same tokens: name a teacher of the same \
        family, or train on its answers alone (`rankine teach`, then `type: sft`)",
    ))
}
