//! Ids of repositories on the Hub: `owner/name`, `owner/name@revision`, or `name` alone for the
//! oldest models.

use std::fmt;

/// Most characters of an owner or a name.
const LONGEST_WORD: usize = 96;
/// Most characters of a revision.
const LONGEST_REVISION: usize = 200;
const DEFAULT_REVISION: &str = "main";

/// Kind of repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepoKind {
    /// A model or an adapter.
    Model,
    /// A dataset.
    Dataset,
}

/// A repository of the Hub with the requested revision. Neither can lead out of a folder when
/// joined to a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoId {
    kind: RepoKind,
    repository: String,
    revision: Option<String>,
}

/// A text that is not a valid id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no id of the Hub: {reason}")]
pub struct IdError {
    /// The text as it was given.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl RepoId {
    /// Parses the id of a model, by the Hub's rules for names
    /// (<https://github.com/huggingface/huggingface_hub/blob/main/src/huggingface_hub/utils/_validators.py>).
    ///
    /// # Errors
    /// The id is invalid; the error says why.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let failed = |reason| IdError {
            text: text.to_owned(),
            reason,
        };
        let (repository, revision) = match text.split_once('@') {
            Some((repository, revision)) => (repository, Some(revision)),
            None => (text, None),
        };
        let words: Vec<&str> = repository.split('/').collect();
        if words.len() > 2 {
            return Err(failed("it has more than one `/`, expected `owner/name`"));
        }
        words.into_iter().try_for_each(check_word).map_err(failed)?;
        revision.map_or(Ok(()), check_revision).map_err(failed)?;
        Ok(Self {
            kind: RepoKind::Model,
            repository: repository.to_owned(),
            revision: revision.map(str::to_owned),
        })
    }

    /// Parses the id of a dataset, by the same rules.
    ///
    /// # Errors
    /// The id is invalid; the error says why.
    pub fn parse_dataset(text: &str) -> Result<Self, IdError> {
        Ok(Self {
            kind: RepoKind::Dataset,
            ..Self::parse(text)?
        })
    }

    /// Returns the kind of repository.
    pub fn kind(&self) -> RepoKind {
        self.kind
    }

    /// Returns the path of its page on the Hub: `owner/name`, or `datasets/owner/name`.
    pub fn page(&self) -> String {
        match self.kind {
            RepoKind::Model => self.repository.clone(),
            RepoKind::Dataset => format!("datasets/{}", self.repository),
        }
    }

    /// Returns `owner/name`, or `name`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Returns the branch, tag or commit; `main` by default.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(DEFAULT_REVISION)
    }

    /// Returns the owner and the name, if there is an owner.
    pub fn owner_and_name(&self) -> Option<(&str, &str)> {
        self.repository.split_once('/')
    }

    /// Returns the commit, if the revision is one.
    pub fn pinned(&self) -> Option<Commit> {
        self.revision.as_deref().and_then(Commit::parse)
    }

    /// Returns the same repository at another revision.
    ///
    /// # Errors
    /// The revision is invalid.
    pub fn at(&self, revision: &str) -> Result<Self, IdError> {
        check_revision(revision).map_err(|reason| IdError {
            text: revision.to_owned(),
            reason,
        })?;
        Ok(Self {
            revision: Some(revision.to_owned()),
            ..self.clone()
        })
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.page())?;
        self.revision
            .iter()
            .try_for_each(|revision| write!(f, "@{revision}"))
    }
}

fn check_word(word: &str) -> Result<(), &'static str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_edge = |c: char| c.is_ascii_alphanumeric() || c == '_';
    match word {
        "" => Err("a part of it is empty, expected `owner/name`"),
        _ if word.len() > LONGEST_WORD => Err("a part of it is longer than 96 characters"),
        _ if !word.chars().all(is_plain) => Err("expected letters, digits, `-`, `_` and `.`"),
        _ if !word.starts_with(is_edge) || !word.ends_with(is_edge) => {
            Err("a part of it begins or ends with `-` or `.`, expected a letter or a digit there")
        }
        _ if word.contains("--") || word.contains("..") => Err("`--` and `..` are not allowed"),
        _ if word.to_ascii_lowercase().ends_with(".git") => Err("it ends with `.git`"),
        _ => Ok(()),
    }
}

/// Checks a revision. A branch or tag may have several parts, as in `refs/pr/1`.
fn check_revision(revision: &str) -> Result<(), &'static str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && !part.ends_with('.')
            && part.chars().all(is_plain)
    };
    match revision {
        "" => Err("its revision is empty"),
        _ if revision.len() > LONGEST_REVISION => Err("its revision is longer than 200 characters"),
        _ if !revision.split('/').all(is_part) || revision.contains("..") => Err(
            "its revision is no branch, tag or commit, expected letters, digits, `-`, `_`, `.`, \
            `+` and `/`",
        ),
        _ => Ok(()),
    }
}

/// Commit of a repository: 40 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit(String);

impl Commit {
    /// Parses a commit; `None` if the text is not one.
    pub fn parse(text: &str) -> Option<Self> {
        is_hex(text, 40).then(|| Self(text.to_owned()))
    }

    /// Returns the digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns whether the text is exactly this many lower-case hexadecimal digits.
pub(super) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_an_owner_a_name_and_a_revision() {
        let id = RepoId::parse("Qwen/Qwen2.5-0.5B@refs/pr/1").expect("an id");
        assert_eq!(
            (id.repository(), id.revision(), id.owner_and_name()),
            (
                "Qwen/Qwen2.5-0.5B",
                "refs/pr/1",
                Some(("Qwen", "Qwen2.5-0.5B"))
            )
        );
        assert_eq!(id.to_string(), "Qwen/Qwen2.5-0.5B@refs/pr/1");
        let id = RepoId::parse("gpt2").expect("an old id");
        assert_eq!(
            (id.revision(), id.owner_and_name(), id.pinned()),
            ("main", None, None)
        );
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(
            id.at(commit)
                .expect("a revision")
                .pinned()
                .expect("a commit")
                .as_str(),
            commit
        );
        assert_eq!(
            RepoId::parse(&format!("a/b@{}", commit.to_uppercase()))
                .expect("a branch")
                .pinned(),
            None
        );
    }

    #[test]
    fn what_could_lead_elsewhere_is_no_id() {
        let wrong = [
            "",
            "/",
            "a/",
            "/a",
            "a/b/c",
            "a//b",
            "../b",
            "a/..",
            "./a",
            "a/.b",
            "a/b.",
            "-a/b",
            "a/b-",
            "a/b--c",
            "a/b..c",
            "a/b.git",
            "a b/c",
            "a\\b/c",
            "a/b\0",
            "ä/b",
            "a:b/c",
            "~/b",
            "a/b@",
            "a/b@/x",
            "a/b@x/",
            "a/b@../x",
            "a/b@x/../y",
            "a/b@.x",
            "a/b@x..y",
            "a/b@x y",
            "a/b@x\\y",
            "a/b@x@y",
            "a/b@x%2fy",
            "a/b@x\ny",
        ];
        for text in wrong {
            let error = RepoId::parse(text).expect_err(text);
            assert_eq!(error.text, text);
        }
        assert!(RepoId::parse(&format!("a/{}", "b".repeat(97))).is_err());
        assert!(RepoId::parse(&format!("a/b@{}", "c".repeat(201))).is_err());
    }
}
