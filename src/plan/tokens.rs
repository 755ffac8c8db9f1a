//! The section `tokens`: names are looked up in the base's vocabulary, new tokens get ids, and the
//! embedding and the head get rows that the base lacks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::adapter::within;
use super::base::{Base, noted};
use super::filled::Filled;
use crate::adapter::peft;
use crate::data::tokenize::Tokenizer;
use crate::data::tokenizer_files::{NAMES, TokenizerFiles};
use crate::data::{Revision, TokenRole};
use crate::fault::{Fault, nearest, yaml_word};
use crate::files::listed;
use crate::model::{CompanionFiles, NewRow, NewRows, OwnVocabulary};
use crate::recipe::{self, AddedToken, Location, Recipe, Said};

/// The differences between the run's tokenizer and tables and the base's.
#[derive(Debug)]
pub struct Vocabulary {
    /// The tokenizer's files, as they are written beside the trained weights.
    files: TokenizerFiles,
    /// Ids of special tokens that differ from the base's, by the keys of a model's config.
    ids: Vec<(String, Value)>,
    /// The new number of rows of the embedding and the head, if the base has fewer.
    pub grown_to: Option<usize>,
    /// Tokens that the recipe adds to the base, with their ids, sorted by id.
    pub new: Vec<(String, u32)>,
    /// Tokens that are trained because the base has no row for them, or has a row that no token
    /// used.
    pub(super) rows: BTreeSet<u32>,
    /// Notes for the user.
    pub(super) notes: Vec<String>,
}

impl Vocabulary {
    /// Returns the approximate size of the tokenizer's files.
    pub(super) fn bytes(&self) -> u64 {
        self.files
            .contents()
            .iter()
            .map(|(_, content)| content.len() as u64)
            .sum()
    }

    /// Returns the vocabulary for the folder of a whole model.
    pub(super) fn of_model(
        &self,
        rows: usize,
        templates: Option<Vec<(PathBuf, String)>>,
    ) -> OwnVocabulary {
        OwnVocabulary {
            rows,
            ids: self.ids.clone(),
            files: self.contents(templates),
        }
    }

    /// Returns the tokenizer's files, with templates that differ from the base's in place of its
    /// own.
    pub(super) fn contents(
        &self,
        templates: Option<Vec<(PathBuf, String)>>,
    ) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = self.files.contents();
        if let Some(templates) = templates {
            files.retain(|(path, _)| !CompanionFiles::is_template(path));
            files.extend(
                templates
                    .into_iter()
                    .map(|(path, source)| (path, source.into_bytes())),
            );
        }
        files
    }
}

/// Adds to the base the tokens of the recipe or of the adapter to continue from; `None` if it stays
/// as it is.
pub(super) fn tokens(
    recipe: &Recipe,
    base: &mut Base,
    filled: &mut Filled,
    faults: &mut Vec<Fault>,
) -> Option<Vocabulary> {
    fill(&recipe.tokens, filled);
    let said = recipe.adapter.init_from.as_ref();
    let adapter = said.map(|said| within(said.value.clone()));
    let own = adapter.as_deref().zip(said).and_then(|(adapter, said)| {
        let own = noted(
            TokenizerFiles::beside(adapter, &base.folder),
            &said.place,
            faults,
        )??;
        noted(peft::resize(&mut base.model, adapter), &said.place, faults)?;
        let of_base = std::mem::replace(
            &mut base.tokenizer,
            noted(Tokenizer::of(&own), &said.place, faults)?,
        );
        Some((own, of_base))
    });
    if own.is_none() && recipe.tokens.is_empty() {
        return None;
    }
    let place = &recipe.base_model.as_ref()?.place;
    let (files, original) = match own {
        Some((own, of_base)) => (own, Some(of_base)),
        None => (
            noted(TokenizerFiles::read(&base.folder), place, faults)?,
            None,
        ),
    };
    let before = faults.len();
    let mut lookup = Lookup {
        tokenizer: &base.tokenizer,
        base: &base.name,
        rows: base.model.spec.vocabulary,
        add: &recipe.tokens.add,
        notes: Vec::new(),
        faults,
    };
    let (revision, from) = lookup.revision(&recipe.tokens);
    let notes = lookup.notes;
    if faults.len() > before {
        return None;
    }
    let (mut vocabulary, before) = revised(recipe, base, files, (&revision, &from), faults)?;
    vocabulary.ids = base.tokenizer.ids_unlike(&original.unwrap_or(before));
    vocabulary.notes.splice(0..0, notes);
    Some(vocabulary)
}

/// Fills the values for the lock.
fn fill(tokens: &recipe::Tokens, filled: &mut Filled) {
    for (role, said) in roles(tokens) {
        filled.optional(&format!("tokens.{}", role.name()), said, |token| {
            json!(token)
        });
    }
    filled.optional("tokens.end_of_turn", tokens.end_of_turn.as_ref(), |ends| {
        json!(ends)
    });
    let shown = |AddedToken {
                     token,
                     from,
                     special,
                 }: &AddedToken| {
        if from.is_none() && !special {
            return json!(token);
        }
        let mut entry = serde_json::Map::from_iter([("token".to_owned(), json!(token))]);
        entry.extend(
            from.as_ref()
                .map(|from| ("from".to_owned(), json!(from.value))),
        );
        entry.extend(special.then(|| ("special".to_owned(), json!(true))));
        Value::Object(entry)
    };
    let all: Vec<AddedToken> = tokens.add.iter().map(|said| said.value.clone()).collect();
    let said = tokens.add.first().map(|first| Said {
        value: all,
        place: first.place.clone(),
    });
    filled.optional("tokens.add", said.as_ref(), |all| {
        all.iter().map(shown).collect()
    });
}

fn roles(tokens: &recipe::Tokens) -> [(TokenRole, Option<&Said<String>>); 4] {
    [
        (TokenRole::Bos, tokens.bos.as_ref()),
        (TokenRole::Eos, tokens.eos.as_ref()),
        (TokenRole::Pad, tokens.pad.as_ref()),
        (TokenRole::Unk, tokens.unk.as_ref()),
    ]
}

/// Looks up token names and collects faults.
struct Lookup<'a> {
    tokenizer: &'a Tokenizer,
    base: &'a str,
    /// Rows of the base's embedding.
    rows: usize,
    add: &'a [Said<AddedToken>],
    notes: Vec<String>,
    faults: &'a mut Vec<Fault>,
}

impl Lookup<'_> {
    /// Returns the revision of the tokenizer, and the tokens whose rows initialize new ones.
    fn revision(&mut self, tokens: &recipe::Tokens) -> (Revision, BTreeMap<String, u32>) {
        let (mut revision, mut from) = (Revision::default(), BTreeMap::new());
        let mut seen = BTreeSet::new();
        for Said { value, place } in self.add {
            if !seen.insert(&value.token) {
                let fault = Fault::new(format!("tokens.add: `{}` is named twice", value.token));
                self.faults.push(fault.at(place).hint("name it once"));
                continue;
            }
            let known = self.tokenizer.token_to_id(&value.token);
            if let Some(id) = known.filter(|id| (*id as usize) < self.rows) {
                self.note_known(value, id, tokens);
                continue;
            }
            if let Some(id) = value.from.as_ref().and_then(|named| self.of_base(named)) {
                from.insert(value.token.clone(), id);
            }
            if known.is_none() {
                revision.new.push((value.token.clone(), value.special));
            }
        }
        for (role, said) in roles(tokens) {
            if let Some(said) = said.filter(|said| {
                self.is_name(role, said)
                    && self.is_known(&format!("tokens.{}", role.name()), &said.value, &said.place)
            }) {
                revision.roles.push((role, said.value.clone()));
            }
        }
        for (token, place) in tokens
            .end_of_turn
            .iter()
            .flat_map(|said| said.value.iter().map(|token| (token, &said.place)))
        {
            if self.is_known("tokens.end_of_turn", token, place) && !revision.ends.contains(token) {
                revision.ends.push(token.clone());
            }
        }
        (revision, from)
    }

    /// Notes that a token to add already exists, unless it is also named for another purpose.
    fn note_known(&mut self, token: &AddedToken, id: u32, tokens: &recipe::Tokens) {
        let AddedToken { token, from, .. } = token;
        let is_named = roles(tokens)
            .into_iter()
            .filter_map(|(_, said)| said)
            .any(|said| said.value == *token)
            || tokens
                .end_of_turn
                .iter()
                .any(|said| said.value.contains(token));
        if is_named && from.is_none() {
            return;
        }
        let passed_over = if from.is_some() {
            ", and `from` changes nothing"
        } else {
            ""
        };
        self.notes.push(format!(
            "tokens.add: `{token}` is in the base's vocabulary, id {id}, and is used as it \
            is{passed_over}; its row trains with `adapter.trainable_token_indices: [{id}]`"
        ));
    }

    /// Returns the id of a token whose row is to be copied.
    fn of_base(&mut self, said: &Said<String>) -> Option<u32> {
        let id = self
            .tokenizer
            .token_to_id(&said.value)
            .filter(|id| (*id as usize) < self.rows);
        if id.is_none() {
            let message = format!(
                "tokens.add: `from` is `{}`, which has no row in base `{}`",
                said.value, self.base
            );
            let hint = self.near(&said.value).unwrap_or_else(|| {
                "name a token of the base, or leave `from` out for the mean of all rows".to_owned()
            });
            self.faults
                .push(Fault::new(message).at(&said.place).hint(hint));
        }
        id
    }

    /// Refuses an id in place of a name: the token whose text is that number would be taken.
    fn is_name(&mut self, role: TokenRole, said: &Said<String>) -> bool {
        let Ok(id) = said.value.parse::<u32>() else {
            return true;
        };
        let message = format!(
            "tokens.{}: `{id}` is a number, expected a token as it is written in text",
            role.name()
        );
        let fault = Fault::new(message).at(&said.place);
        self.faults.push(match self.tokenizer.token_of(id) {
            Some(token) => fault.hint(format!("id {id} is {}", yaml_word(&token))),
            None => fault.hint("such as `<|im_end|>`"),
        });
        false
    }

    fn is_known(&mut self, key: &str, token: &str, place: &Location) -> bool {
        let is_known = self.tokenizer.token_to_id(token).is_some()
            || self.add.iter().any(|added| added.value.token == token);
        if !is_known {
            let message = format!(
                "{key}: `{token}` is neither in the vocabulary of base `{}` nor in `tokens.add`",
                self.base
            );
            let add = format!("add it with `tokens: {{add: [{}]}}`", yaml_word(token));
            let hint = self
                .near(token)
                .map_or_else(|| add.clone(), |near| format!("{near} Otherwise {add}"));
            self.faults.push(Fault::new(message).at(place).hint(hint));
        }
        is_known
    }

    /// Returns the base's special token that was probably meant.
    fn near(&self, token: &str) -> Option<String> {
        let special = &self.tokenizer.special().all;
        nearest(token, special.iter().map(String::as_str))
            .map(|near| format!("did you mean `{near}`?"))
    }
}

/// Returns the base with the revised tokenizer and the rows that it needs, and the original
/// tokenizer.
fn revised(
    recipe: &Recipe,
    base: &mut Base,
    mut files: TokenizerFiles,
    (revision, from): (&Revision, &BTreeMap<String, u32>),
    faults: &mut Vec<Fault>,
) -> Option<(Vocabulary, Tokenizer)> {
    let place = recipe
        .tokens
        .add
        .first()
        .map_or(&recipe.base_model.as_ref()?.place, |first| &first.place);
    let revised = noted(files.revise(&base.tokenizer, revision), place, faults)?;
    let before = std::mem::replace(&mut base.tokenizer, revised);
    let (tokenizer, stored) = (&base.tokenizer, base.model.spec.vocabulary);
    let id = |token: &String| tokenizer.token_to_id(token);
    let mut new: Vec<(String, u32)> = revision
        .new
        .iter()
        .filter_map(|(token, _)| Some((token.clone(), id(token)?)))
        .collect();
    new.sort_by_key(|(_, id)| *id);
    let added = recipe.tokens.add.iter().map(|said| &said.value.token);
    let named = revision
        .roles
        .iter()
        .map(|(_, token)| token)
        .chain(&revision.ends)
        .chain(added)
        .filter_map(id);
    let without_row = named.filter(|id| *id as usize >= stored);
    let mut rows: BTreeSet<u32> = new.iter().map(|(_, id)| *id).chain(without_row).collect();
    let vocabulary = rows
        .last()
        .map_or(stored, |last| stored.max(*last as usize + 1));
    // Tokens before the last one that only the tokenizer knew.
    rows.extend(stored as u32..vocabulary as u32);
    if let (Some(said), Some(first)) = (&recipe.adapter.init_from, rows.first()) {
        let token = tokenizer.token_of(*first).unwrap_or_default();
        let message = format!(
            "adapter.init_from: the adapter has no row for `{token}`, id \
            {first}, which `tokens` names"
        );
        let hint = "merge the adapter with `rankine merge` and add tokens to the merged model, or \
            leave the token out";
        faults.push(Fault::new(message).at(&said.place).hint(hint));
        return None;
    }
    if vocabulary > stored && base.model.spec.per_layer_width().is_some() {
        let message = format!(
            "tokens: {vocabulary} tokens are more than the {stored} of the base, whose table of \
            inputs per layer has no rows for the others and none in an adapter"
        );
        let hint = "name tokens of the vocabulary that the base does not use, such as \
            `<unused0>`, in their place";
        faults.push(Fault::new(message).hint(hint));
        return None;
    }
    let starts: BTreeMap<u32, u32> = from
        .iter()
        .filter_map(|(token, from)| Some((id(token)?, *from)))
        .collect();
    let start = |id: &u32| {
        starts
            .get(id)
            .map_or(NewRow::Mean, |from| NewRow::Copy(*from))
    };
    let mut notes = Vec::new();
    if !rows.is_empty() {
        base.model.resize(NewRows {
            vocabulary,
            rows: rows.iter().map(|id| (*id, start(id))).collect(),
        });
        notes.push(of_rows(&new, &rows, stored, vocabulary));
    }
    notes.extend(begins_otherwise(tokenizer, revision));
    let grown_to = Some(base.model.spec.vocabulary).filter(|_| base.model.is_resized());
    Some((
        Vocabulary {
            files,
            ids: Vec::new(),
            grown_to,
            new,
            rows,
            notes,
        },
        before,
    ))
}

/// Describes which tokens are new, and where their rows are.
fn of_rows(
    new: &[(String, u32)],
    rows: &BTreeSet<u32>,
    stored: usize,
    vocabulary: usize,
) -> String {
    let names: Vec<String> = new
        .iter()
        .map(|(token, id)| format!("`{token}` ({id})"))
        .collect();
    let names = listed(&names).join(", ");
    let spare = rows.iter().filter(|id| (**id as usize) < stored).count();
    let behind = vocabulary - stored;
    let where_to = match (spare, behind) {
        (spare, 0) => {
            format!(
                "{spare} of the rows that no token of the base has become theirs, the \
                embedding keeps its {stored} rows"
            )
        }
        (0, _) => format!("the embedding gets {behind} rows and has {vocabulary}"),
        (spare, _) => format!(
            "{spare} rows that no token of the base has become theirs, and the embedding gets \
            {behind} more and has {vocabulary}"
        ),
    };
    if new.is_empty() {
        format!("tokens: {where_to}")
    } else {
        format!("tokens.add: new are {names}; {where_to}")
    }
}

/// Returns a note if a tokenizer begins texts with a token of its own, regardless of bos.
fn begins_otherwise(tokenizer: &Tokenizer, revision: &Revision) -> Option<String> {
    let (_, bos) = revision
        .roles
        .iter()
        .find(|(role, _)| *role == TokenRole::Bos)?;
    let first = tokenizer
        .ids("a", true)
        .ok()?
        .first()
        .copied()
        .filter(|id| tokenizer.is_special(*id))?;
    let first = tokenizer
        .decode(&[first], false)
        .ok()
        .filter(|first| first != bos)?;
    Some(format!(
        "tokens.bos is `{bos}`, and tokenizer.json begins every text with `{first}` all the same; \
        only chat templates use the new one"
    ))
}

/// Returns the paths of the tokenizer's files of the adapter to continue from, which the run reads.
pub fn tokenizer_files(adapter: &Path) -> Vec<PathBuf> {
    let paths = NAMES.into_iter().map(|name| adapter.join(name));
    paths
        .filter(|path| path.symlink_metadata().is_ok())
        .collect()
}
