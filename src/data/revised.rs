//! A tokenizer with other special tokens than its files name, and with tokens that they do not have: the files are changed as
//! transformers would write them, and the tokenizer is then opened from what will be read later.

use serde_json::{Map, Value, json};
use tokenizers::AddedToken;

use super::added_tokens::DECODER;
use super::tokenize::{Error, Tokenizer};
use super::tokenizer_files::{ADDED, CONFIG, GENERATION, MAP, TOKENIZER, TokenizerFiles};

/// What a special token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenRole {
    /// It begins a sequence.
    Bos,
    /// It ends a sequence.
    Eos,
    /// It fills a batch.
    Pad,
    /// It stands for what the vocabulary lacks.
    Unk,
}

impl TokenRole {
    /// As recipes call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bos => "bos",
            Self::Eos => "eos",
            Self::Pad => "pad",
            Self::Unk => "unk",
        }
    }

    /// The key of a tokenizer's files.
    fn token_key(self) -> String {
        format!("{}_token", self.name())
    }

    /// The key of a model's files, which have ids.
    pub fn id_key(self) -> String {
        format!("{}_token_id", self.name())
    }
}

/// What becomes of a tokenizer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revision {
    /// Special tokens by name.
    pub roles: Vec<(TokenRole, String)>,
    /// Tokens at which generation stops, besides eos.
    pub ends: Vec<String>,
    /// Tokens that it lacks, each once, and whether they are left out of decoded text.
    pub new: Vec<(String, bool)>,
}

impl Revision {
    /// Tokens that are special because of what they are for.
    fn named(&self) -> impl Iterator<Item = &String> {
        self.roles.iter().map(|(_, token)| token).chain(&self.ends)
    }

    /// What the vocabulary gets: new tokens, whose text counts as it is written, and those that become special.
    fn tokens(&self, tokenizer: &Tokenizer) -> Vec<AddedToken> {
        let new = self.new.iter().map(|(token, special)| {
            let special = *special || self.named().any(|named| named == token);
            AddedToken { special, ..as_written(token) }
        });
        let is_new = |token: &&String| self.new.iter().any(|(new, _)| new == *token);
        let become_special = self.named().filter(|token| !is_new(token)).map(|token| {
            let known = tokenizer.inner.get_added_tokens_decoder().into_values().find(|known| known.content == *token);
            AddedToken { special: true, ..known.unwrap_or_else(|| as_written(token)) }
        });
        new.chain(become_special).collect()
    }
}

impl TokenizerFiles {
    /// Changes the files, of which `tokenizer` was opened: tokens are added behind those that are there, as transformers numbers them.
    ///
    /// # Errors
    /// A file is no JSON object, or a token cannot be added.
    pub fn revise(&mut self, tokenizer: &Tokenizer, revision: &Revision) -> Result<Tokenizer, Error> {
        let mut inner = tokenizer.inner.clone();
        let failed = |error: tokenizers::Error| Error::Broken {
            path: self.folder.join(TOKENIZER),
            expected: "a tokenizer that takes these tokens",
            cause: error.to_string(),
        };
        inner.add_tokens(revision.tokens(tokenizer)).map_err(failed)?;
        let mut added: Vec<(u32, AddedToken)> = inner.get_added_tokens_decoder().into_iter().collect();
        added.sort_unstable_by_key(|(id, _)| *id);
        let id = |token: &String| inner.token_to_id(token);
        let before: Vec<(u32, String, bool)> = tokenizer.added_tokens();
        let changed = |(id, token): &&(u32, AddedToken)| !before.contains(&(*id, token.content.clone(), token.special));
        let changed: Vec<&(u32, AddedToken)> = added.iter().filter(changed).collect();
        if !changed.is_empty() {
            self.edit(TOKENIZER, |file| {
                let token = |(id, token): &(u32, AddedToken)| {
                    let mut entry = Map::from_iter([("id".to_owned(), json!(id))]);
                    entry.extend(flags(token));
                    Value::Object(entry)
                };
                file.insert("added_tokens".to_owned(), added.iter().map(token).collect());
            })?;
        }
        self.edit(CONFIG, |file| {
            if let Some(Value::Object(decoder)) = file.get_mut(DECODER) {
                decoder.extend(changed.iter().map(|(id, token)| (id.to_string(), Value::Object(flags(token)))));
            }
            put_roles(file, revision);
        })?;
        if self.texts.contains_key(MAP) {
            self.edit(MAP, |file| put_roles(file, revision))?;
        }
        if self.texts.contains_key(ADDED) {
            let new = revision.new.iter().filter_map(|(token, _)| Some((token.clone(), json!(id(token)?))));
            let new: Vec<(String, Value)> = new.collect();
            self.edit(ADDED, |file| file.extend(new))?;
        }
        let mut ends: Vec<u32> =
            revision.roles.iter().filter(|(role, _)| *role == TokenRole::Eos).filter_map(|(_, token)| id(token)).collect();
        ends.extend(revision.ends.iter().filter_map(id));
        let others = revision.roles.iter().filter(|(role, _)| [TokenRole::Bos, TokenRole::Pad].contains(role));
        let others: Vec<(String, Value)> = others.filter_map(|(role, token)| Some((role.id_key(), json!(id(token)?)))).collect();
        if !ends.is_empty() || !others.is_empty() {
            let known = tokenizer.eos_ids();
            self.edit(GENERATION, |file| put_ids(file, &ends, known, others))?;
        }
        Tokenizer::of(self)
    }

    /// Changes one of the JSON files, which comes to be where it is not there. One that the change leaves as it is keeps its bytes.
    fn edit(&mut self, name: &'static str, change: impl FnOnce(&mut Map<String, Value>)) -> Result<(), Error> {
        let old = self.json(name)?.values;
        let mut new = old.clone();
        change(&mut new);
        if new != old {
            let text = serde_json::to_string_pretty(&new).expect("JSON values can be printed");
            self.texts.insert(name, text + "\n");
        }
        Ok(())
    }
}

/// A token that is found in a text as it is written, before anything is normalized.
fn as_written(token: &str) -> AddedToken {
    AddedToken { content: token.to_owned(), normalized: false, ..AddedToken::default() }
}

/// A token as `added_tokens` of tokenizer.json and `added_tokens_decoder` have it.
fn flags(token: &AddedToken) -> Map<String, Value> {
    let AddedToken { content, single_word, lstrip, rstrip, normalized, special } = token;
    let flags =
        [("single_word", single_word), ("lstrip", lstrip), ("rstrip", rstrip), ("normalized", normalized), ("special", special)];
    let flags = flags.map(|(key, value)| (key.to_owned(), json!(value)));
    [("content".to_owned(), json!(content))].into_iter().chain(flags).collect()
}

fn put_roles(file: &mut Map<String, Value>, revision: &Revision) {
    for (role, token) in &revision.roles {
        file.insert(role.token_key(), json!(token));
    }
}

/// Ids at which generation stops: these, then those of before.
fn put_ids(file: &mut Map<String, Value>, ends: &[u32], before: &[u32], others: Vec<(String, Value)>) {
    if !ends.is_empty() {
        let mut all: Vec<u32> = Vec::new();
        for id in ends.iter().chain(before) {
            if !all.contains(id) {
                all.push(*id);
            }
        }
        file.insert(TokenRole::Eos.id_key(), if let [only] = all[..] { json!(only) } else { json!(all) });
    }
    file.extend(others);
}
