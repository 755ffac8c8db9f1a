//! Errors of the Hub and what to do about them. No message contains a token or the query of an
//! address.

use std::path::PathBuf;

use super::id::{Commit, IdError};
use crate::fault::{Exit, Explain};
use crate::files;

/// Content of a model that is missing in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// The whole revision.
    Everything,
    /// Some files.
    Files {
        /// Commit of the revision.
        commit: Commit,
        /// Names of the missing files.
        names: Vec<String>,
    },
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Everything => write!(f, "that revision was never fetched"),
            Self::Files { commit, names } => write!(
                f,
                "of commit {commit} these files are missing: {}",
                names.join(", ")
            ),
        }
    }
}

/// Whether a request carried a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenUse {
    /// There is no token.
    None,
    /// There is a token, but it must not be sent over plain http.
    Withheld,
    /// The token was sent.
    Sent,
}

/// Kind of access that was requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read access.
    Read,
    /// Write access.
    Write,
}

/// Failure to fetch a model or dataset, or to upload an adapter.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// A text is not a valid id.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The program was built without the feature `hub`.
    #[error("this build of rankine has no hub: it was built without the feature `hub`")]
    NotBuilt,
    /// The network is switched off.
    #[error("{doing} needs the network, which {variable} switches off")]
    Offline {
        /// The operation that needs the network.
        doing: String,
        /// The variable that switches it off.
        variable: &'static str,
    },
    /// A model or a dataset is not in the cache, and the network was not used.
    #[error(
        "`{id}` is not in the cache `{}`: {missing}{}",
        cache.display(),
        switched_off(*offline)
    )]
    NotCached {
        /// The id as it was given.
        id: String,
        /// Arguments of `rankine pull` that fetch it.
        pull: String,
        /// Folder of the cache.
        cache: PathBuf,
        /// What is missing.
        missing: Box<Missing>,
        /// The variable that switches the network off.
        offline: Option<&'static str>,
    },
    /// The address of the Hub is invalid.
    #[error("HF_ENDPOINT is `{endpoint}`, which is {reason}")]
    Endpoint {
        /// The address as it was set.
        endpoint: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// There is no token where one is needed.
    #[error("there is no token of the Hub, which a push needs")]
    NoToken,
    /// A token must not go over plain http to another machine.
    #[error(
        "`{endpoint}` is plain http to another machine, over which no token is sent; a push needs \
        one"
    )]
    PlainHttp {
        /// The Hub's address.
        endpoint: String,
    },
    /// A server could not be reached, or the connection broke off.
    #[error("`{place}`: {cause}")]
    Connection {
        /// Scheme, host and path.
        place: String,
        /// What happened.
        cause: String,
    },
    /// All attempts failed.
    #[error("{error}; tried {attempts} times{kept}")]
    GaveUp {
        /// Error of the last attempt.
        error: Box<HubError>,
        /// Number of attempts.
        attempts: u32,
        /// Bytes that are kept for the next time.
        kept: String,
    },
    /// The server denied access.
    #[error("`{id}`: the hub `{endpoint}` answered {status}, {}", token_words(*token))]
    Denied {
        /// Repository and revision.
        id: String,
        /// The Hub's address.
        endpoint: String,
        /// 401 or 403.
        status: u16,
        /// Whether there was a token.
        token: TokenUse,
        /// Kind of access.
        access: Access,
    },
    /// There is no such repository.
    #[error(
        "`{repository}` (revision `{revision}`) is not on the hub `{endpoint}`, which answered \
        {status}: no such repository"
    )]
    NoRepository {
        /// `owner/name`.
        repository: String,
        /// Requested revision.
        revision: String,
        /// The Hub's address.
        endpoint: String,
        /// 404 or 410.
        status: u16,
    },
    /// There is no such revision.
    #[error("`{repository}` on the hub `{endpoint}` has no revision `{revision}`")]
    NoRevision {
        /// `owner/name`.
        repository: String,
        /// Requested revision.
        revision: String,
        /// The Hub's address.
        endpoint: String,
    },
    /// The server answered with an unexpected status.
    #[error("`{place}` answered {status}{said}")]
    Status {
        /// Scheme, host and path.
        place: String,
        /// The status.
        status: u16,
        /// The server's message, after a colon.
        said: String,
    },
    /// A redirect is not followed.
    #[error("`{place}` {reason}")]
    Redirect {
        /// Scheme, host and path.
        place: String,
        /// Reason why it is not followed.
        reason: String,
    },
    /// The server's answer about a repository is invalid.
    #[error("`{id}`: the hub's answer is refused: {reason}")]
    Refused {
        /// Repository and revision.
        id: String,
        /// What is invalid.
        reason: String,
    },
    /// The repository has no weights that can be read.
    #[error("`{id}` has no safetensors file{}", only(pickles))]
    NoWeights {
        /// Repository and revision.
        id: String,
        /// Pickle files in the repository.
        pickles: Vec<String>,
    },
    /// A dataset's own description of its files cannot be used.
    #[error("`{id}`: {reason}")]
    DatasetLayout {
        /// Repository and revision.
        id: String,
        /// What is wrong.
        reason: String,
    },
    /// The named configuration does not exist, or none was named and there are several.
    #[error("{}", no_config(id, wanted.as_deref(), configs))]
    DatasetConfig {
        /// Repository and revision.
        id: String,
        /// The configuration that was named.
        wanted: Option<String>,
        /// The configurations that exist.
        configs: Vec<String>,
        /// The default configuration of the repository.
        usual: Option<String>,
    },
    /// The split does not exist.
    #[error(
        "`{id}` has no split `{wanted}`{}, it has: {}",
        in_config(config.as_deref()),
        splits.join(", ")
    )]
    DatasetSplit {
        /// The path.
        id: String,
        /// The configuration.
        config: Option<String>,
        /// The split that was named.
        wanted: String,
        /// The splits that exist.
        splits: Vec<String>,
    },
    /// The dataset has no Parquet files.
    #[error("`{id}` has no Parquet files{}", without_copy(revision.as_deref(), found))]
    NoParquet {
        /// Repository and revision.
        id: String,
        /// The requested revision, if the Hub has no copy of it.
        revision: Option<String>,
        /// The files that exist.
        found: Vec<String>,
    },
    /// No file matches the glob.
    #[error(
        "no Parquet file of `{id}` matches `{glob}`, it has: {}",
        or_none(found)
    )]
    NoFiles {
        /// Repository and revision.
        id: String,
        /// The glob.
        glob: String,
        /// The Parquet files that exist.
        found: Vec<String>,
    },
    /// The size of a file differs from the listing.
    #[error("`{file}`: the server sends {found} bytes, the listing says {expected}")]
    Size {
        /// The file.
        file: String,
        /// Size in the listing.
        expected: u64,
        /// Size that the server reports or sent.
        found: String,
    },
    /// The hash of a file differs from the listing.
    #[error(
        "`{file}` has the {kind} {found}, the listing says {expected}; what was downloaded of it \
        is removed"
    )]
    Hash {
        /// The file.
        file: String,
        /// The name of the hash.
        kind: &'static str,
        /// Hash in the listing.
        expected: String,
        /// Hash of the downloaded bytes.
        found: String,
    },
    /// The repository is public, but a private one was requested.
    #[error(
        "`{id}` is a repository that others can see, and `--private` was asked for; nothing was \
        uploaded"
    )]
    Public {
        /// `owner/name`.
        id: String,
    },
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] files::FileError),
}

fn switched_off(offline: Option<&str>) -> String {
    offline.map_or_else(String::new, |variable| {
        format!("; {variable} switches the network off")
    })
}

fn token_words(token: TokenUse) -> &'static str {
    match token {
        TokenUse::None => "no token was sent",
        TokenUse::Withheld => "no token was sent, because the connection is plain http",
        TokenUse::Sent => "a token was sent",
    }
}

fn only(pickles: &[String]) -> String {
    if pickles.is_empty() {
        String::new()
    } else {
        format!(", only {}", pickles.join(", "))
    }
}

fn no_config(id: &str, wanted: Option<&str>, configs: &[String]) -> String {
    let configs = or_none(configs);
    match wanted {
        Some(wanted) => format!("`{id}` has no configuration `{wanted}`, it has: {configs}"),
        None => format!("`{id}` has several configurations: {configs}"),
    }
}

fn in_config(config: Option<&str>) -> String {
    config.map_or_else(String::new, |config| {
        format!(" in configuration `{config}`")
    })
}

fn without_copy(revision: Option<&str>, found: &[String]) -> String {
    let found = or_none(found);
    match revision {
        Some(revision) => {
            format!(", it has: {found}; the Hub converts `main` only, not `{revision}`")
        }
        None => format!(" and no branch `refs/convert/parquet`, it has: {found}"),
    }
}

fn or_none(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

impl HubError {
    /// Returns whether the network or the server failed temporarily, so that a cached copy may be
    /// used instead.
    pub fn is_network_away(&self) -> bool {
        match self {
            Self::GaveUp { .. } | Self::Connection { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }
}

impl Explain for HubError {
    fn exit(&self) -> Exit {
        match self {
            Self::Id(_)
            | Self::NoWeights { .. }
            | Self::Endpoint { .. }
            | Self::DatasetLayout { .. }
            | Self::DatasetConfig { .. }
            | Self::DatasetSplit { .. }
            | Self::NoParquet { .. }
            | Self::NoFiles { .. } => Exit::Input,
            Self::File(error) => error.exit(),
            _ => Exit::Unavailable,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Id(_) => "write `owner/name` or `owner/name@revision`, as on its page".to_owned(),
            Self::NotBuilt => "name the folder of a model that is here, or build with `--features \
                hub`"
                .to_owned(),
            Self::Offline { variable, .. } => format!("unset {variable}"),
            Self::NotCached {
                pull,
                offline: None,
                ..
            } => format!("fetch it with `rankine pull {pull}`"),
            Self::NotCached {
                pull,
                offline: Some(variable),
                ..
            } => {
                format!(
                    "fetch it with `rankine pull {pull}` where there is a network, without \
                    {variable}"
                )
            }
            Self::Endpoint { .. } => "set it to an address such as `https://huggingface.co`, or \
                unset it"
                .to_owned(),
            Self::NoToken => "make one with write access in the settings of your account, and set \
                HF_TOKEN"
                .to_owned(),
            Self::PlainHttp { .. }
            | Self::Denied {
                token: TokenUse::Withheld,
                ..
            } => "set HF_ENDPOINT to an https address".to_owned(),
            Self::GaveUp { error, .. } => {
                error.hint().unwrap_or_else(|| "try again later".to_owned())
            }
            Self::Connection { .. } => "check the network, HF_ENDPOINT and the proxy, then try \
                again"
                .to_owned(),
            Self::Denied {
                access: Access::Write,
                ..
            } => "set HF_TOKEN to a token that may write there".to_owned(),
            Self::Denied {
                id,
                endpoint,
                token,
                ..
            } => denied(id, endpoint, *token),
            Self::NoRepository { .. } => {
                "correct the id; of a private repository HF_TOKEN must have the token of somebody \
                who may read it"
                    .to_owned()
            }
            Self::NoRevision { .. } => {
                "name a branch, tag or commit of the repository after `@`".to_owned()
            }
            Self::Refused { .. } | Self::Redirect { .. } => {
                "nothing of it was kept; check HF_ENDPOINT, and that the repository is the one \
                that you mean"
                    .to_owned()
            }
            Self::NoWeights { .. } => {
                "choose a repository with safetensors; pickle files can run code and are refused"
                    .to_owned()
            }
            Self::DatasetLayout { .. } => {
                "name its Parquet files in the path: `hf://datasets/OWNER/NAME/GLOB`".to_owned()
            }
            Self::DatasetConfig {
                usual: Some(usual), ..
            } => {
                format!(
                    "name one with `config`; `config: {usual}` is the default of the repository"
                )
            }
            Self::DatasetConfig { .. } => "name one with `config`".to_owned(),
            Self::DatasetSplit { .. } => "name one with `split`".to_owned(),
            Self::NoParquet { .. } => {
                "download its files, make Parquet of them with `rankine convert FILES --out \
                FILE.parquet`, and name that in `path`"
                    .to_owned()
            }
            Self::NoFiles { .. } => "correct the glob; `*` stands for a part of a name, `**` for \
                any folders"
                .to_owned(),
            Self::Size { .. } | Self::Hash { .. } => "try again; if it stays, the server or a \
                proxy changes files"
                .to_owned(),
            Self::Public { .. } => "choose another id, or make the repository private in its \
                settings"
                .to_owned(),
            Self::Status { .. } => return None,
            Self::File(error) => return error.hint(),
        };
        Some(hint)
    }
}

fn denied(id: &str, endpoint: &str, token: TokenUse) -> String {
    let page = format!("{endpoint}/{}", id.split('@').next().unwrap_or(id));
    match token {
        TokenUse::Sent => {
            format!(
                "accept the license at {page} if it is gated, with the account of this token; \
                otherwise correct the id"
            )
        }
        _ => format!(
            "correct the id; if it is gated accept the license at {page}, then set HF_TOKEN to a \
            token of that account"
        ),
    }
}
