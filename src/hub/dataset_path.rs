//! Path of a dataset on the Hub in a recipe: `hf://datasets/owner/name[@revision][/GLOB]`, as in
//! Python's `HfFileSystem` (<https://huggingface.co/docs/huggingface_hub/guides/hf_file_system>).

use std::fmt;

use super::id::{IdError, RepoId};

/// Prefix of such a path.
const SCHEME: &str = "hf://datasets/";
/// Revisions with slashes that need no `%2F`: the converted branches and pull requests.
const CONVERTED: &str = "refs/convert/";
const PULL_REQUEST: &str = "refs/pr/";

/// A dataset at a revision, or some of its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetPath {
    /// Repository and revision.
    pub id: RepoId,
    /// Glob of its files, if files were named.
    pub files: Option<String>,
}

impl DatasetPath {
    /// Returns whether a text is meant as such a path.
    pub fn is_one(text: &str) -> bool {
        text.starts_with("hf://")
    }

    /// Parses a path with its scheme.
    ///
    /// # Errors
    /// The path is invalid; the error says why.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let failed = |reason| IdError {
            text: text.to_owned(),
            reason,
        };
        let rest = text
            .strip_prefix(SCHEME)
            .ok_or_else(|| failed("expected `hf://datasets/owner/name`"))?;
        Self::parse_id(rest).map_err(|error| IdError {
            text: text.to_owned(),
            ..error
        })
    }

    /// Parses a path with or without its scheme: `owner/name[@revision][/GLOB]`.
    ///
    /// # Errors
    /// The path is invalid; the error says why.
    pub fn parse_id(text: &str) -> Result<Self, IdError> {
        let rest = text.strip_prefix(SCHEME).unwrap_or(text);
        let mut parts = rest.splitn(3, '/');
        let (owner, second, third) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
            parts.next(),
        );
        let Some((name, revision)) = second.split_once('@') else {
            let id = RepoId::parse_dataset(&format!("{owner}/{second}"))?;
            let files = third.map(|files| pattern(files, text)).transpose()?;
            return Ok(Self {
                id,
                files: files.flatten(),
            });
        };
        let behind = third.map_or_else(
            || revision.to_owned(),
            |third| format!("{revision}/{third}"),
        );
        let (revision, files) = split_revision(&behind);
        let id = RepoId::parse_dataset(&format!(
            "{owner}/{name}@{}",
            revision.replace("%2F", "/").replace("%2f", "/")
        ))?;
        let files = files.map(|files| pattern(files, text)).transpose()?;
        Ok(Self {
            id,
            files: files.flatten(),
        })
    }
}

impl fmt::Display for DatasetPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf://{}", self.id)?;
        self.files
            .iter()
            .try_for_each(|files| write!(f, "/{files}"))
    }
}

/// Reads the glob after a slash; a trailing slash alone names no files.
fn pattern(files: &str, text: &str) -> Result<Option<String>, IdError> {
    let files = files.trim_end_matches('/');
    let refused = |reason| {
        Err(IdError {
            text: text.to_owned(),
            reason,
        })
    };
    if files.is_empty() {
        return Ok(None);
    }
    if files.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return refused("a part of the path of its files is empty, `.` or `..`");
    }
    if glob::Pattern::new(files).is_err() {
        return refused("the path of its files is not a glob");
    }
    let name = files.rsplit('/').next().unwrap_or_default();
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    let is_plain = ending.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_plain && !ending.is_empty() && ending != "parquet" {
        return refused(
            "of a dataset of the Hub only Parquet files are read; without files it stands for the \
            Hub's own Parquet copy",
        );
    }
    Ok(Some(files.to_owned()))
}

/// Splits a revision from the part after its slash. Of revisions that contain slashes, those that
/// the Hub makes are recognized.
fn split_revision(text: &str) -> (&str, Option<&str>) {
    let start = [CONVERTED, PULL_REQUEST]
        .into_iter()
        .find(|start| text.starts_with(start))
        .map_or(0, str::len);
    match text[start..].find('/') {
        Some(slash) => (&text[..start + slash], Some(&text[start + slash + 1..])),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_a_repository_a_revision_and_files() {
        for (text, repository, revision, files) in [
            ("hf://datasets/owner/name", "owner/name", "main", None),
            ("hf://datasets/owner/name/", "owner/name", "main", None),
            (
                "hf://datasets/owner/name/data/*.parquet",
                "owner/name",
                "main",
                Some("data/*.parquet"),
            ),
            ("hf://datasets/owner/name@v1.2", "owner/name", "v1.2", None),
            (
                "hf://datasets/owner/name@v1.2/a/b.parquet",
                "owner/name",
                "v1.2",
                Some("a/b.parquet"),
            ),
            (
                "hf://datasets/owner/name@refs/convert/parquet",
                "owner/name",
                "refs/convert/parquet",
                None,
            ),
            (
                "hf://datasets/owner/name@refs/convert/parquet/x/*",
                "owner/name",
                "refs/convert/parquet",
                Some("x/*"),
            ),
            (
                "hf://datasets/owner/name@refs%2Fpr%2F1/x",
                "owner/name",
                "refs/pr/1",
                Some("x"),
            ),
        ] {
            let path = DatasetPath::parse(text).expect(text);
            assert_eq!(
                (
                    path.id.repository(),
                    path.id.revision(),
                    path.files.as_deref()
                ),
                (repository, revision, files),
                "{text}"
            );
            assert_eq!(DatasetPath::parse(&path.to_string()).expect(text), path);
        }
        let path = DatasetPath::parse_id("owner/name@main").expect("an id");
        assert_eq!(
            (path.to_string(), path.id.page()),
            (
                "hf://datasets/owner/name@main".into(),
                "datasets/owner/name".into()
            )
        );
    }

    #[test]
    fn what_names_no_data_set_is_refused_with_the_reason() {
        for (text, part) in [
            ("hf://owner/name", "expected `hf://datasets/owner/name`"),
            ("hf://datasets/squad", "a part of it is empty"),
            ("hf://datasets/owner/na me", "expected letters"),
            ("hf://datasets/owner/name@", "its revision is empty"),
            ("hf://datasets/../name", "begins or ends with"),
            ("hf://datasets/owner/name/../x", "`.` or `..`"),
            ("hf://datasets/owner/name/data//x", "is empty"),
            ("hf://datasets/owner/name/[x", "not a glob"),
            (
                "hf://datasets/owner/name/train.jsonl",
                "only Parquet files are read",
            ),
        ] {
            let error = DatasetPath::parse(text).expect_err(text);
            assert!(
                error
                    .to_string()
                    .starts_with(&format!("`{text}` is no id of the Hub"))
                    && error.reason.contains(part),
                "{error}"
            );
        }
    }
}
