//! Tokens that only the files beside `tokenizer.json` name. transformers adds them when it opens a
//! folder, so a model trained through it knows each as one token. Without them the markers of a
//! conversation would be cut into pieces.
//!
//! The precedence is that of transformers 5.23 (`PreTrainedTokenizerBase._from_pretrained`,
//! `TokenizersBackend.__init__`): `added_tokens_decoder` in `tokenizer_config.json` hides
//! `special_tokens_map.json` and `added_tokens.json`. Otherwise the map takes precedence over the
//! config, and the tokens of `tokenizer.json` over `added_tokens.json`. Tokens with ids are added
//! first, in the order of their ids, then single special tokens in the order of [`NAMES`], then the
//! list of further ones. New ids follow the existing ones, whatever a file says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::error::TokenizeError;
use super::files::{ADDED, Config, MAP, TokenizerFiles};
use super::renumbered::RenumberedToken;
use super::token::Token;

/// Keys of single special tokens, in the order in which they are added.
const NAMES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];
/// Key of further special tokens: a list, or an object of named ones.
const EXTRA: &str = "extra_special_tokens";
/// Name of [`EXTRA`] in transformers 4.
const OLD_EXTRA: &str = "additional_special_tokens";
/// Key of the object that maps ids to tokens.
pub(super) const DECODER: &str = "added_tokens_decoder";

/// The JSON files beside `tokenizer.json`; a missing file is empty.
pub(super) struct Files {
    config: Config,
    map: Config,
    added: Config,
}

/// Tokens that were added to a tokenizer.
#[derive(Debug, Default)]
pub(super) struct Added {
    /// Single special tokens by their keys.
    pub named: Map<String, Value>,
    /// Tokens that `tokenizer.json` does not have as added tokens, with their ids.
    pub new: Vec<(String, u32)>,
    /// Tokens whose ids differ from those in the file that names them.
    pub renumbered: Vec<RenumberedToken>,
    /// Descriptions of every change to the tokenizer, for its identity.
    pub identity: Vec<String>,
}

/// Tokens that the files name.
#[derive(Debug, Default)]
struct Named {
    /// Single special tokens, in the order in which they are added.
    single: Vec<(String, Token)>,
    extra: Vec<Token>,
    /// Tokens by the ids that a file gives them.
    by_id: BTreeMap<u32, Token>,
}

impl Files {
    /// Takes the files that name tokens from a tokenizer's files; `config` is its
    /// `tokenizer_config.json`.
    pub fn of(files: &TokenizerFiles, config: Config) -> Result<Self, TokenizeError> {
        Ok(Self {
            config,
            map: files.json(MAP)?,
            added: files.json(ADDED)?,
        })
    }

    /// Returns the path of the file that gives tokens their ids, and the tokens by id.
    fn ids(&self) -> Result<(&PathBuf, BTreeMap<u32, Token>), TokenizeError> {
        let Some(decoder) = self.decoder()? else {
            let said = |(token, id): (&String, &Value)| {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                id.map(|id| (id, Token::plain(token))).ok_or_else(|| {
                    self.added
                        .wrong(token, &self.added.values[token], "a token id")
                })
            };
            return Ok((
                &self.added.path,
                self.added
                    .values
                    .iter()
                    .map(said)
                    .collect::<Result<_, _>>()?,
            ));
        };
        let said = |(id, token): (&String, &Value)| {
            let read = id
                .parse()
                .ok()
                .zip(Token::read(token).filter(|_| token.is_object()));
            read.ok_or_else(|| {
                self.config
                    .wrong(&format!("{DECODER}.{id}"), token, "a token")
            })
        };
        Ok((
            &self.config.path,
            decoder.iter().map(said).collect::<Result<_, _>>()?,
        ))
    }

    fn decoder(&self) -> Result<Option<&Map<String, Value>>, TokenizeError> {
        match self.config.values.get(DECODER) {
            None => Ok(None),
            Some(Value::Object(decoder)) => Ok(Some(decoder)),
            Some(other) => {
                Err(self
                    .config
                    .wrong(DECODER, other, "an object of tokens by their ids"))
            }
        }
    }

    /// Returns all tokens that the files name. `own` holds the tokens of `tokenizer.json`,
    /// `padding` the token that it pads with.
    fn named(
        &self,
        own: &BTreeMap<u32, Token>,
        padding: Option<&str>,
    ) -> Result<Named, TokenizeError> {
        let (mut values, hides) = (self.config.values.clone(), self.decoder()?.is_some());
        if values.contains_key(OLD_EXTRA) && is_nothing(values.get(EXTRA)) {
            let old = values.shift_remove(OLD_EXTRA).unwrap_or_default();
            values.insert(EXTRA.to_owned(), old);
        }
        let mut of_model = take_models_own(&mut values, Value::is_string);
        if !hides {
            self.merge_map(&mut values);
            of_model.extend(take_object(&mut values));
        }
        let (_, mut by_id) = self.ids()?;
        if !hides {
            let special = self.special_words(&values)?;
            for token in by_id.values_mut() {
                token.special = special.contains(&token.content);
                token.normalized = Some(!token.special);
            }
            by_id.extend(own.clone());
        }
        if !values.contains_key(EXTRA) {
            let old = values.shift_remove(OLD_EXTRA).unwrap_or_default();
            values.insert(EXTRA.to_owned(), old);
        }
        if let (Some(padding), false) = (padding, values.contains_key("pad_token")) {
            values.insert("pad_token".to_owned(), padding.into());
        }
        // Found here, they stand before those that were told apart above.
        let late = take_models_own(&mut values, |value| Token::read(value).is_some())
            .into_iter()
            .filter(|(key, _)| of_model.iter().all(|(known, _)| known != key));
        let of_model: Vec<_> = late
            .collect::<Vec<_>>()
            .into_iter()
            .chain(of_model)
            .collect();
        let named = NAMES
            .iter()
            .filter_map(|key| Some(((*key).to_owned(), values.get(*key)?.clone())));
        let single = named.chain(of_model).filter(|(_, value)| !value.is_null());
        let single = single
            .map(|(key, value)| Ok((self.token(&key, &value)?, key)))
            .collect::<Result<Vec<_>, TokenizeError>>()?;
        let as_in_table = |token: Token| {
            by_id
                .values()
                .find(|known| known.content == token.content)
                .cloned()
                .unwrap_or(token)
        };
        let single = single
            .into_iter()
            .map(|(token, key)| (key, as_in_table(token)))
            .collect();
        let extra = self.list(values.get(EXTRA))?;
        Ok(Named {
            single,
            extra,
            by_id,
        })
    }

    /// Replaces values of the config by those of `special_tokens_map.json`. Lists under [`EXTRA`]
    /// are merged.
    fn merge_map(&self, values: &mut Map<String, Value>) {
        for (key, value) in &self.map.values {
            let value = match (key.as_str(), value) {
                (EXTRA, Value::Array(items)) => {
                    let mut all = values
                        .get(EXTRA)
                        .and_then(Value::as_array)
                        .cloned()
                        .unwrap_or_default();
                    let items = items.iter().map(as_special);
                    items.for_each(|item| {
                        if !all.contains(&item) {
                            all.push(item);
                        }
                    });
                    Value::Array(all)
                }
                (EXTRA, other) => other.clone(),
                (_, other) => as_special(other),
            };
            values.insert(key.clone(), value);
        }
    }

    /// Returns the text of each token that is special according to these values.
    fn special_words(
        &self,
        values: &Map<String, Value>,
    ) -> Result<BTreeSet<String>, TokenizeError> {
        let single = NAMES
            .iter()
            .filter_map(|key| Token::read(values.get(*key)?));
        Ok(single
            .chain(self.list(values.get(EXTRA))?)
            .map(|token| token.content)
            .collect())
    }

    fn token(&self, key: &str, value: &Value) -> Result<Token, TokenizeError> {
        Token::read(value).ok_or_else(|| self.file_of(key).wrong(key, value, "a token"))
    }

    fn list(&self, value: Option<&Value>) -> Result<Vec<Token>, TokenizeError> {
        match value {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(items)) => items.iter().map(|item| self.token(EXTRA, item)).collect(),
            Some(other) => Err(self.file_of(EXTRA).wrong(
                EXTRA,
                other,
                "a list of tokens, or an object of named ones",
            )),
        }
    }

    /// Returns the file that a value comes from, for error messages.
    fn file_of(&self, key: &str) -> &Config {
        if self.map.values.contains_key(key) {
            &self.map
        } else {
            &self.config
        }
    }

    /// Adds the tokens that a tokenizer lacks.
    ///
    /// # Errors
    /// A value has another type, or a file gives a token the id of another one.
    pub fn add_to(
        &self,
        tokenizer: &mut tokenizers::Tokenizer,
        padding: Option<&str>,
    ) -> Result<Added, TokenizeError> {
        let own: BTreeMap<_, _> = tokenizer
            .get_added_tokens_decoder()
            .into_iter()
            .map(|(id, token)| (id, Token::known(&token)))
            .collect();
        self.check_ids(tokenizer)?;
        let named = self.named(&own, padding)?;
        let all = named.tokens(&own);
        let identity = all
            .iter()
            .filter(|token| own.values().all(|known| known != *token))
            .map(|token| format!("{token:?}"))
            .collect();
        let contents: Vec<String> = all.iter().map(|token| token.content.clone()).collect();
        // The crate fails only at a normalizer that does.
        let failed = |error: tokenizers::Error| TokenizeError::Broken {
            path: self.config.path.clone(),
            expected: "a list of tokens that can be added",
            cause: error.to_string(),
        };
        tokenizer
            .add_tokens(all.into_iter().map(Token::into_added))
            .map_err(failed)?;
        let is_new = |content: &String| own.values().all(|known| known.content != *content);
        let mut seen = BTreeSet::new();
        let new = contents
            .into_iter()
            .filter(|content| is_new(content) && seen.insert(content.clone()));
        let new = new
            .filter_map(|content| Some((tokenizer.token_to_id(&content)?, content)))
            .map(|(id, content)| (content, id));
        let (path, said) = self.ids()?;
        let renumbered = said
            .into_iter()
            .filter_map(|(said, Token { content, .. })| {
                let id = tokenizer.token_to_id(&content);
                (id != Some(said)).then(|| RenumberedToken {
                    file: name_of(path),
                    token: content,
                    said,
                    id,
                })
            });
        let of_key = |(key, token): (String, Token)| {
            (!token.content.is_empty()).then(|| (key, token.content.into()))
        };
        let (new, renumbered) = (new.collect(), renumbered.collect());
        Ok(Added {
            named: named.single.into_iter().filter_map(of_key).collect(),
            new,
            renumbered,
            identity,
        })
    }

    /// Refuses an id that belongs to another token. The tokenizer would silently ignore it, and the
    /// model may have been trained with either token.
    fn check_ids(&self, tokenizer: &tokenizers::Tokenizer) -> Result<(), TokenizeError> {
        let (path, said) = self.ids()?;
        for (id, Token { content, .. }) in said {
            if let Some(other) = tokenizer.id_to_token(id).filter(|other| *other != content) {
                return Err(TokenizeError::Collision {
                    path: path.clone(),
                    token: content,
                    id,
                    other,
                });
            }
        }
        Ok(())
    }
}

impl Named {
    /// Returns the tokens to add to the tokenizer, in order; `own` holds the tokens that it has.
    fn tokens(&self, own: &BTreeMap<u32, Token>) -> Vec<Token> {
        let mut all: Vec<Token> = self.by_id.values().cloned().collect();
        let known: BTreeSet<&String> = own
            .values()
            .chain(self.by_id.values())
            .map(|token| &token.content)
            .collect();
        for token in self
            .single
            .iter()
            .map(|(_, token)| token)
            .chain(&self.extra)
        {
            if !known.contains(&token.content) && !all.contains(token) {
                all.push(token.clone());
            }
        }
        for token in &mut all {
            token.special |= self
                .single
                .iter()
                .any(|(_, named)| named.content == token.content);
        }
        all
    }
}

/// Whether Python treats a value as false.
fn is_nothing(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => true,
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(entries)) => entries.is_empty(),
        Some(Value::String(text)) => text.is_empty(),
        _ => false,
    }
}

/// Removes and returns the tokens under model-specific keys: keys such as `image_token`, and the
/// entries of an object under [`EXTRA`].
fn take_models_own(
    values: &mut Map<String, Value>,
    is_token: impl Fn(&Value) -> bool,
) -> Vec<(String, Value)> {
    let is_own = |key: &str, value: &Value| {
        key.ends_with("_token") && !NAMES.contains(&key) && is_token(value)
    };
    let keys: Vec<String> = values
        .iter()
        .filter(|(key, value)| is_own(key, value))
        .map(|(key, _)| key.clone())
        .collect();
    let single = keys
        .into_iter()
        .filter_map(|key| values.shift_remove(&key).map(|value| (key, value)));
    let mut found: Vec<_> = single.collect();
    found.extend(take_object(values));
    found
}

fn take_object(values: &mut Map<String, Value>) -> Vec<(String, Value)> {
    if values.get(EXTRA).is_some_and(Value::is_object)
        && let Some(Value::Object(entries)) = values.shift_remove(EXTRA)
    {
        return entries.into_iter().collect();
    }
    Vec::new()
}

/// Marks an object of `special_tokens_map.json` as special, which the file leaves out.
fn as_special(value: &Value) -> Value {
    let mut value = value.clone();
    if let Value::Object(token) = &mut value {
        token.insert("special".to_owned(), true.into());
    }
    value
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
