//! Environment variables for the Hub, read as Python's `huggingface_hub` does
//! (<https://github.com/huggingface/huggingface_hub/blob/main/src/huggingface_hub/constants.py>),
//! so that both share the cache, the token and the offline switch.
//!
//! An empty variable counts as unset.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::HubError;
use crate::files;

const ENDPOINT: &str = "https://huggingface.co";
/// Words that mean true, in any case.
const TRUE: [&str; 4] = ["1", "ON", "YES", "TRUE"];

/// Whether the network may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The network may be used.
    Allowed,
    /// The network is switched off by this variable.
    Off(&'static str),
}

/// Settings of the Hub and its cache.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Folder of the cache, absolute.
    pub cache: PathBuf,
    /// Address of the Hub, without a trailing `/`.
    pub endpoint: String,
    /// Whether the network may be used.
    pub network: Network,
    token: Option<Token>,
    token_file: PathBuf,
}

/// A secret token. It is not printed; code that sends it must call [`Token::reveal`].
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    fn clean(text: &str) -> Option<Self> {
        let text = text.replace(['\r', '\n'], "");
        Some(Self(text.trim().to_owned())).filter(|token| !token.0.is_empty())
    }

    /// Returns the secret.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Environment {
    /// Reads the environment of the process.
    pub fn read() -> Self {
        let home =
            || files::home_folder().and_then(|home| home.into_os_string().into_string().ok());
        Self::of(&|name| {
            if name == "HOME" {
                home()
            } else {
                std::env::var(name).ok()
            }
        })
    }

    /// Reads variables through a function.
    pub fn of(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let said = |name: &str| variable(name).filter(|value| !value.is_empty());
        let path = |text: String| expanded(&text, &said);
        let home = said("HF_HOME").unwrap_or_else(|| {
            let cache = said("XDG_CACHE_HOME").unwrap_or_else(|| "~/.cache".to_owned());
            format!("{cache}/huggingface")
        });
        let home = path(home);
        let cache = said("HF_HUB_CACHE")
            .or_else(|| said("HUGGINGFACE_HUB_CACHE"))
            .map_or_else(|| home.join("hub"), path);
        let cache = std::path::absolute(&cache).unwrap_or(cache);
        let endpoint = said("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        // The second variable counts only if the first is unset.
        let switch = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]
            .into_iter()
            .find_map(|name| Some((name, said(name)?)));
        let network = switch.filter(|(_, value)| TRUE.contains(&&*value.to_uppercase()));
        Self {
            cache,
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            network: network.map_or(Network::Allowed, |(name, _)| Network::Off(name)),
            token: said("HF_TOKEN")
                .or_else(|| said("HUGGING_FACE_HUB_TOKEN"))
                .and_then(|text| Token::clean(&text)),
            token_file: said("HF_TOKEN_PATH").map_or_else(|| home.join("token"), path),
        }
    }

    /// Returns the token of the environment, or of its file.
    ///
    /// # Errors
    /// The file exists but cannot be read.
    pub fn token(&self) -> Result<Option<Token>, HubError> {
        if self.token.is_some() {
            return Ok(self.token.clone());
        }
        match files::read_text_up_to(&self.token_file, 64 << 10) {
            Ok(text) => Ok(Token::clean(&text)),
            Err(error)
                if matches!(
                    error.cause.kind(),
                    ErrorKind::NotFound | ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Expands `~` at the beginning of a path, and `$NAME` or `${NAME}` anywhere. Unset variables stay
/// as they are.
fn expanded(text: &str, said: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    let text = match text
        .strip_prefix('~')
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
    {
        Some(rest) => said("HOME").map_or_else(
            || text.to_owned(),
            |home| format!("{}{rest}", home.trim_end_matches('/')),
        ),
        None => text.to_owned(),
    };
    let (mut filled, mut rest) = (String::new(), text.as_str());
    while let Some(start) = rest.find('$') {
        let (before, after) = rest.split_at(start);
        filled.push_str(before);
        let braced = after
            .strip_prefix("${")
            .and_then(|inner| inner.split_once('}'))
            .map(|(name, _)| (name, name.len() + 3));
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let word = after[1..].split(|c| !is_word(c)).next().unwrap_or_default();
        let (name, length) = braced.unwrap_or((word, word.len() + 1));
        filled.push_str(&said(name).unwrap_or_else(|| after[..length].to_owned()));
        rest = &after[length..];
    }
    Path::new(&(filled + rest)).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Environment {
        let pairs: Vec<(String, String)> = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Environment::of(&|name| {
            pairs
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.clone())
        })
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        let cache = |pairs: &[(&str, &str)]| of(pairs).cache;
        let home = ("HOME", "/home/x");
        assert_eq!(cache(&[home]), Path::new("/home/x/.cache/huggingface/hub"));
        assert_eq!(
            cache(&[home, ("XDG_CACHE_HOME", "/c")]),
            Path::new("/c/huggingface/hub")
        );
        assert_eq!(
            cache(&[home, ("HF_HOME", "~/hf"), ("XDG_CACHE_HOME", "/c")]),
            Path::new("/home/x/hf/hub")
        );
        assert_eq!(
            cache(&[
                home,
                ("HF_HOME", "$DISK/${WHERE}"),
                ("DISK", "/d"),
                ("WHERE", "e")
            ]),
            Path::new("/d/e/hub")
        );
        assert_eq!(
            cache(&[("HF_HOME", "/$NONE/x$")]),
            Path::new("/$NONE/x$/hub")
        );
        assert_eq!(
            cache(&[("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/old")]),
            Path::new("/old")
        );
        assert_eq!(
            cache(&[
                ("HF_HOME", "/h"),
                ("HUGGINGFACE_HUB_CACHE", "/old"),
                ("HF_HUB_CACHE", "/new")
            ]),
            Path::new("/new")
        );
        assert_eq!(
            cache(&[home, ("HF_HOME", ""), ("HF_HUB_CACHE", "")]),
            Path::new("/home/x/.cache/huggingface/hub")
        );
    }

    #[test]
    fn the_switch_is_read_as_python_reads_it() {
        let network = |pairs: &[(&str, &str)]| of(pairs).network;
        for word in ["1", "on", "ON", "Yes", "true"] {
            assert_eq!(
                network(&[("HF_HUB_OFFLINE", word)]),
                Network::Off("HF_HUB_OFFLINE"),
                "{word}"
            );
        }
        for word in ["", "0", "no", "off", "false", "2"] {
            assert_eq!(
                network(&[("HF_HUB_OFFLINE", word)]),
                Network::Allowed,
                "{word}"
            );
        }
        assert_eq!(
            network(&[("TRANSFORMERS_OFFLINE", "1")]),
            Network::Off("TRANSFORMERS_OFFLINE")
        );
        assert_eq!(
            network(&[("TRANSFORMERS_OFFLINE", "1"), ("HF_HUB_OFFLINE", "")]),
            Network::Off("TRANSFORMERS_OFFLINE")
        );
        assert_eq!(
            network(&[("TRANSFORMERS_OFFLINE", "1"), ("HF_HUB_OFFLINE", "0")]),
            Network::Allowed
        );
    }

    #[test]
    fn the_token_comes_from_a_variable_or_a_file_and_is_not_shown() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(path("token"), " hf_of_home\n").expect("written");
        std::fs::write(path("other"), "hf_of_path\r\n").expect("written");
        let home = path("");
        let token = |pairs: &[(&str, &str)]| {
            of(pairs)
                .token()
                .expect("read")
                .map(|token| token.reveal().to_owned())
        };
        assert_eq!(token(&[("HF_HOME", &home)]).as_deref(), Some("hf_of_home"));
        assert_eq!(
            token(&[("HF_HOME", &home), ("HF_TOKEN_PATH", &path("other"))]).as_deref(),
            Some("hf_of_path")
        );
        assert_eq!(
            token(&[("HF_HOME", &home), ("HUGGING_FACE_HUB_TOKEN", "hf_old")]).as_deref(),
            Some("hf_old")
        );
        assert_eq!(
            token(&[
                ("HUGGING_FACE_HUB_TOKEN", "hf_old"),
                ("HF_TOKEN", "hf_new\n")
            ])
            .as_deref(),
            Some("hf_new")
        );
        assert_eq!(token(&[("HF_HOME", &path("none"))]), None);
        assert!(
            of(&[("HF_TOKEN_PATH", &home)]).token().is_err(),
            "a folder is no token"
        );
        assert!(!format!("{:?}", of(&[("HF_TOKEN", "hf_new")])).contains("hf_new"));
        assert_eq!(
            of(&[("HF_ENDPOINT", "http://mirror/")]).endpoint,
            "http://mirror"
        );
    }
}
