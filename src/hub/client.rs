//! Requests to the Hub: when they carry the token, which redirects are followed, and which failures
//! are retried.

use std::io::Read;
use std::time::Duration;

use ureq::http::{HeaderMap, Request, Response};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, AsSendBody, Body};

use super::environment::{Environment, Network, Token};
use super::error::{Access, HubError, TokenUse};
use super::id::RepoId;
use super::location::Location;
use super::retry::{Failed, Next, Patience};
use crate::fault::printable;

const MOST_REDIRECTS: u32 = 10;
/// Most bytes of a server's error message that are read; [`SAID_SHOWN`] characters are shown.
const SAID_BYTES: u64 = 4 << 10;
const SAID_SHOWN: usize = 300;
/// Time limit of a small request, including its answer.
const WHOLE_REQUEST: Duration = Duration::from_mins(2);

/// HTTP client for the Hub. It cannot be made under `HF_HUB_OFFLINE`.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    endpoint: String,
    server: Location,
    token: Option<Token>,
    pub(super) patience: Patience,
}

impl Client {
    /// Makes a client without sending anything. `doing` names its purpose for messages.
    ///
    /// # Errors
    /// The network is switched off, the Hub's address is invalid, or the token cannot be read.
    pub fn new(
        environment: &Environment,
        patience: Patience,
        doing: &str,
    ) -> Result<Self, HubError> {
        if let Network::Off(variable) = environment.network {
            return Err(HubError::Offline {
                doing: doing.to_owned(),
                variable,
            });
        }
        let endpoint = environment.endpoint.clone();
        let server = Location::parse(&endpoint).map_err(|reason| HubError::Endpoint {
            endpoint: shown_endpoint(&endpoint),
            reason,
        })?;
        // Use the root certificates of the system, so that a local mirror can have its own
        // certificate.
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::PlatformVerifier)
            .build();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .accept_encoding("identity")
            .user_agent(concat!("rankine/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(patience.connect))
            .timeout_per_read(Some(patience.stall))
            .timeout_per_write(Some(patience.stall))
            .tls_config(tls);
        // Requests to this machine use no proxy.
        let config = if server.is_loopback() {
            config.proxy(None)
        } else {
            config
        };
        Ok(Self {
            agent: config.build().new_agent(),
            endpoint,
            server,
            token: environment.token()?,
            patience,
        })
    }

    /// Returns the Hub's address.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Returns the address of a path on the Hub.
    pub(super) fn address(&self, path: &str) -> Result<Location, HubError> {
        let failed = |reason| HubError::Endpoint {
            endpoint: self.endpoint.clone(),
            reason,
        };
        Location::parse(&format!("{}/{path}", self.endpoint)).map_err(failed)
    }

    /// Returns whether a request to this address carries the token. Only the Hub's own server gets
    /// it, and never over plain http to another machine.
    pub(super) fn token_use(&self, to: &Location) -> TokenUse {
        match &self.token {
            None => TokenUse::None,
            Some(_) if !self.server.is_same_server(to) => TokenUse::None,
            Some(_) if !to.is_https() && !to.is_loopback() => TokenUse::Withheld,
            Some(_) => TokenUse::Sent,
        }
    }

    /// Returns the use of the token for the Hub itself.
    pub(super) fn token_at_hub(&self) -> TokenUse {
        self.token_use(&self.server)
    }

    /// Sends a GET request and follows redirects.
    pub(super) fn get(
        &self,
        id: &RepoId,
        from: Location,
        range: Option<u64>,
    ) -> Result<Response<Body>, Failed> {
        let mut from = from;
        for _ in 0..=MOST_REDIRECTS {
            let mut request = Request::get(from.uri());
            if let Some(start) = range {
                request = request.header("Range", format!("bytes={start}-"));
            }
            let response = self.send(request, &from, ())?;
            let Some(next) = header(response.headers(), "location")
                .filter(|_| response.status().is_redirection())
            else {
                return self.checked(id, &from, Access::Read, response);
            };
            let refused = |reason: &str| HubError::Redirect {
                place: from.shown(),
                reason: format!("redirects to {reason}"),
            };
            if self.says_token(next.as_bytes()) {
                return Err(refused("an address with the token in it").into());
            }
            from = from.follow(&next).map_err(refused)?;
        }
        let reason = format!("redirects more than {MOST_REDIRECTS} times");
        Err(HubError::Redirect {
            place: from.shown(),
            reason,
        }
        .into())
    }

    /// Sends a GET request and returns its whole small answer.
    pub(super) fn get_small(
        &self,
        id: &RepoId,
        from: Location,
        most_bytes: u64,
    ) -> Result<Vec<u8>, Failed> {
        let place = from.shown();
        let response = self.get(id, from, None)?;
        self.read_small(&place, id, response, most_bytes)
    }

    /// Sends a small body and returns the whole small answer. Redirects are not followed, so that
    /// the body goes only where it was meant to go.
    pub(super) fn post(
        &self,
        id: &RepoId,
        to: &Location,
        headers: &[(&str, &str)],
        body: &[u8],
        most_bytes: u64,
    ) -> Result<Vec<u8>, Failed> {
        let request = headers
            .iter()
            .fold(Request::post(to.uri()), |request, (name, value)| {
                request.header(*name, *value)
            });
        let response = self.send(request, to, body)?;
        let response = self.checked(id, to, Access::Write, response)?;
        self.read_small(&to.shown(), id, response, most_bytes)
    }

    /// Sends a request, with the token if the server may have it.
    pub(super) fn send(
        &self,
        request: ureq::http::request::Builder,
        to: &Location,
        body: impl AsSendBody,
    ) -> Result<Response<Body>, Failed> {
        let request = match &self.token {
            Some(token) if self.token_use(to) == TokenUse::Sent => {
                request.header("Authorization", format!("Bearer {}", token.reveal()))
            }
            _ => request,
        };
        self.send_without_token(request, to, body)
    }

    /// Sends a request without the token.
    pub(super) fn send_without_token(
        &self,
        request: ureq::http::request::Builder,
        to: &Location,
        body: impl AsSendBody,
    ) -> Result<Response<Body>, Failed> {
        let request = request.body(body).map_err(|_| HubError::Connection {
            place: to.shown(),
            cause: BAD_HEADER.to_owned(),
        })?;
        self.agent
            .run(request)
            .map_err(|error| failed_request(to, &error))
    }

    /// Returns the response if its status is a success.
    pub(super) fn checked(
        &self,
        id: &RepoId,
        from: &Location,
        access: Access,
        response: Response<Body>,
    ) -> Result<Response<Body>, Failed> {
        let status = response.status().as_u16();
        if response.status().is_success() {
            return Ok(response);
        }
        let (headers, is_hub) = (response.headers(), self.server.is_same_server(from));
        let code = header(headers, "x-error-code").unwrap_or_default();
        let (endpoint, repository, revision) =
            (self.endpoint.clone(), id.page(), id.revision().to_owned());
        let wait = header(headers, "retry-after")
            .and_then(|seconds| seconds.trim().parse().ok())
            .map(Duration::from_secs);
        let error = match status {
            401 | 403 if is_hub => HubError::Denied {
                id: id.to_string(),
                endpoint,
                status,
                token: self.token_use(from),
                access,
            },
            404 if is_hub && code == "RevisionNotFound" => HubError::NoRevision {
                repository,
                revision,
                endpoint,
            },
            404 | 410 if is_hub && code != "EntryNotFound" => HubError::NoRepository {
                repository,
                revision,
                endpoint,
                status,
            },
            _ => HubError::Status {
                place: from.shown(),
                status,
                said: self.words_of(response),
            },
        };
        // The address of a file on another server is signed for a short time; a retry gets a new
        // one.
        let is_stale = !is_hub && matches!(status, 401 | 403);
        match status {
            408 | 429 | 500 | 502 | 503 | 504 => Err(Failed::new(error, Next::Again { wait })),
            _ if is_stale => Err(Failed::again(error)),
            _ => Err(error.into()),
        }
    }

    /// Returns the server's error message, with the token removed if it is repeated there.
    fn words_of(&self, response: Response<Body>) -> String {
        let said = header(response.headers(), "x-error-message").unwrap_or_else(|| {
            let mut body = Vec::new();
            let _ = response
                .into_body()
                .into_reader()
                .take(SAID_BYTES)
                .read_to_end(&mut body);
            let object: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            object["error"].as_str().unwrap_or_default().to_owned()
        });
        let secret = self.token.as_ref().map_or("", Token::reveal);
        let said = if secret.is_empty() {
            said
        } else {
            said.replace(secret, "(the token)")
        };
        let said: String = printable(&said).chars().take(SAID_SHOWN).collect();
        if said.is_empty() {
            said
        } else {
            format!(": {said}")
        }
    }

    /// Reads a whole small answer. It may be shown, so it must not contain the token.
    fn read_small(
        &self,
        place: &str,
        id: &RepoId,
        response: Response<Body>,
        most_bytes: u64,
    ) -> Result<Vec<u8>, Failed> {
        let (mut bytes, started) = (Vec::new(), std::time::Instant::now());
        let mut body = response.into_body().into_reader().take(most_bytes + 1);
        let broken = |cause: String| {
            Failed::again(HubError::Connection {
                place: place.to_owned(),
                cause,
            })
        };
        let mut piece = [0; 16 << 10];
        loop {
            match body.read(&mut piece) {
                Ok(0) => break,
                Ok(length) => bytes.extend_from_slice(&piece[..length]),
                Err(cause) => return Err(broken(cause.to_string())),
            }
            if started.elapsed() > WHOLE_REQUEST {
                return Err(broken("its answer does not end".to_owned()));
            }
        }
        if bytes.len() as u64 > most_bytes {
            let reason = format!("it is longer than {} MiB", most_bytes >> 20);
            return Err(HubError::Refused {
                id: id.to_string(),
                reason,
            }
            .into());
        }
        if self.says_token(&bytes) {
            return Err(HubError::Refused {
                id: id.to_string(),
                reason: "it says the token back".to_owned(),
            }
            .into());
        }
        Ok(bytes)
    }

    fn says_token(&self, text: &[u8]) -> bool {
        let secret = self.token.as_ref().map_or("", Token::reveal).as_bytes();
        !secret.is_empty() && text.windows(secret.len()).any(|part| part == secret)
    }
}

const BAD_HEADER: &str = "the request cannot be written: a token or header has characters that \
    none may have";

/// Hides a name or password in an address.
fn shown_endpoint(endpoint: &str) -> String {
    endpoint
        .rsplit_once('@')
        .map_or_else(|| endpoint.to_owned(), |(_, host)| format!("..@{host}"))
}

pub(super) fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// Converts a failed request. A bad certificate or address is not retried.
fn failed_request(to: &Location, error: &ureq::Error) -> Failed {
    let connection = |cause: String| HubError::Connection {
        place: to.shown(),
        cause,
    };
    match error {
        ureq::Error::Io(cause) if cause.kind() == std::io::ErrorKind::InvalidData => {
            connection(cause.to_string()).into()
        }
        ureq::Error::Io(cause) => Failed::again(connection(cause.to_string())),
        ureq::Error::HostNotFound => Failed::again(connection("this host is not known".to_owned())),
        ureq::Error::Timeout(_) => Failed::again(connection("no answer in time".to_owned())),
        ureq::Error::Protocol(_)
        | ureq::Error::ConnectionFailed
        | ureq::Error::ConnectProxyFailed(_) => Failed::again(connection(error.to_string())),
        _ => connection(error.to_string()).into(),
    }
}
