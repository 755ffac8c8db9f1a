//! Addresses: their server, the target of a redirect, and the part that may be shown.

use std::net::IpAddr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ureq::http::Uri;

/// Characters that are escaped in a part of a path (RFC 3986, section 2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// An http or https address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Location(Uri);

impl Location {
    /// Parses an address.
    ///
    /// # Errors
    /// The address is invalid; the error says why.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let uri: Uri = text.parse().map_err(|_| "no address")?;
        let authority = uri.authority().ok_or("no address with a host")?;
        match uri.scheme_str() {
            Some("http" | "https") if authority.as_str().contains('@') => Err("an address with a \
                name or password in it"),
            Some("http" | "https") if authority.host().is_empty() => Err("no address with a host"),
            Some("http" | "https") => Ok(Self(uri)),
            _ => Err("no http or https address"),
        }
    }

    pub fn uri(&self) -> &Uri {
        &self.0
    }

    /// Returns the target of a redirect from this address.
    ///
    /// # Errors
    /// The target is invalid; the error says why.
    pub fn follow(&self, location: &str) -> Result<Self, &'static str> {
        let (scheme, host) = (
            self.0.scheme_str().unwrap_or_default(),
            self.0
                .authority()
                .map_or("", |authority| authority.as_str()),
        );
        let next = match location {
            _ if location.starts_with("//") => Self::parse(&format!("{scheme}:{location}")),
            _ if location.starts_with('/') => Self::parse(&format!("{scheme}://{host}{location}")),
            _ => Self::parse(location),
        }?;
        if self.is_https() && !next.is_https() {
            Err("plain http")
        } else {
            Ok(next)
        }
    }

    /// Returns whether both addresses are on one server.
    pub fn is_same_server(&self, other: &Self) -> bool {
        let server = |of: &Self| (of.is_https(), of.host(), of.port());
        server(self) == server(other)
    }

    pub fn is_https(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    /// Returns whether requests to the address stay on this machine.
    pub fn is_loopback(&self) -> bool {
        let host = self.host();
        let address = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }

    /// Returns scheme, host and path. The query is left out, because it may hold a signature.
    pub fn shown(&self) -> String {
        let authority = self
            .0
            .authority()
            .map_or("", |authority| authority.as_str());
        format!(
            "{}://{authority}{}",
            self.0.scheme_str().unwrap_or_default(),
            self.0.path()
        )
    }

    fn host(&self) -> String {
        self.0.host().unwrap_or_default().to_ascii_lowercase()
    }

    fn port(&self) -> u16 {
        self.0
            .port_u16()
            .unwrap_or(if self.is_https() { 443 } else { 80 })
    }
}

/// Escapes a text as one part of a path.
pub(super) fn escaped(part: &str) -> String {
    utf8_percent_encode(part, ESCAPED).to_string()
}

/// Escapes the name of a file as parts of a path.
pub(super) fn escaped_name(name: &str) -> String {
    name.split('/').map(escaped).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(text: &str) -> Location {
        Location::parse(text).expect(text)
    }

    #[test]
    fn a_server_is_scheme_host_and_port() {
        let hub = location("https://Hub.example/a");
        assert!(hub.is_same_server(&location("https://hub.example:443/b?c")));
        for other in [
            "http://hub.example",
            "https://hub.example:8443",
            "https://hub.example.evil.example",
            "https://evil.example",
        ] {
            assert!(!hub.is_same_server(&location(other)), "{other}");
        }
        for text in [
            "",
            "x",
            "/a",
            "ftp://a",
            "file:///etc/passwd",
            "https://user:secret@a",
            "https://",
            "http://a b",
        ] {
            assert!(Location::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_redirect_leads_to_http_addresses_and_never_down() {
        let hub = location("https://hub.example/a/b");
        assert_eq!(
            hub.follow("/c?d").expect("here").0,
            "https://hub.example/c?d"
        );
        assert_eq!(
            hub.follow("//cdn.example/c").expect("there").0,
            "https://cdn.example/c"
        );
        assert_eq!(
            hub.follow("https://cdn.example/c").expect("there").0,
            "https://cdn.example/c"
        );
        for wrong in [
            "http://hub.example/c",
            "file:///etc/passwd",
            "c",
            "",
            "javascript:x",
        ] {
            assert!(hub.follow(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            hub.follow("/c?X-Signature=secret").expect("here").shown(),
            "https://hub.example/c"
        );
    }

    #[test]
    fn what_stays_on_this_machine_is_known() {
        for here in [
            "http://localhost:1",
            "http://127.0.0.1",
            "http://127.9.9.9:80",
            "http://[::1]:5",
        ] {
            assert!(location(here).is_loopback(), "{here}");
        }
        for there in [
            "http://127.0.0.1.evil.example",
            "http://localhost.evil.example",
            "http://10.0.0.1",
            "http://[::2]",
        ] {
            assert!(!location(there).is_loopback(), "{there}");
        }
        assert_eq!(escaped("refs/pr/1 ä"), "refs%2Fpr%2F1%20%C3%A4");
        assert_eq!(escaped_name("data/a b.parquet"), "data/a%20b.parquet");
    }
}
