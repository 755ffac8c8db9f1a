//! A server that means harm: nothing of it is found under a name, and nothing at all outside the
//! cache.

use rankine::hub::HubError;
use serde_json::{Value, json};

use super::repository::*;
use super::server::{Answer, Server};

/// A Hub whose listing was changed.
fn listed(change: impl Fn(&mut Value) + Send + Sync + 'static) -> Server {
    let files = llama();
    hub_but(&files.clone(), move |request| {
        let mut listing = listing(&files);
        change(&mut listing);
        request
            .path
            .starts_with("/api/")
            .then(|| Answer::ok(listing.to_string()))
    })
}

#[track_caller]
fn refused(what: &str, server: &Server, part: &str) {
    let place = Place::new();
    let error = place.pull(server).expect_err(what);
    println!("{what}: {error}");
    assert!(
        matches!(error, HubError::Refused { .. }) && error.to_string().contains(part),
        "{what}: {error}"
    );
    assert_eq!(
        server.requests().len(),
        1,
        "{what}: nothing else was asked for"
    );
    assert_eq!(place.files(), Vec::<String>::new(), "{what}");
}

#[test]
fn a_hostile_name_refuses_the_whole_repository() {
    let long = format!("{}.safetensors", "x".repeat(300));
    let names = [
        ("../x.safetensors", "leads out of its folder"),
        ("../../../../../../outside/x", "leads out of its folder"),
        ("a/../../b", "leads out of its folder"),
        ("/etc/cron.d/x", "is absolute"),
        ("~/.ssh/authorized_keys", "is absolute"),
        ("..\\x", "leads out of its folder"),
        ("a\\b.safetensors", "has a `\\`"),
        ("C:\\x.safetensors", "names a drive"),
        ("\\\\host\\share\\x", "is absolute"),
        ("x\0.safetensors", "has control characters"),
        ("x\u{1b}[2J.safetensors", "has control characters"),
        ("", "is empty"),
        (".", "has empty parts"),
        ("a//b", "has empty parts"),
        (&long, "is longer than 255 bytes"),
        (
            "con.safetensors",
            "is no name that every system has room for",
        ),
        (
            "LPT1.safetensors",
            "is no name that every system has room for",
        ),
        ("LICENSE.", "is no name that every system has room for"),
        ("LICENSE:x", "is no name that every system has room for"),
        (
            "x\u{202e}.safetensors",
            "is no name that every system has room for",
        ),
    ];
    for (name, part) in names {
        let shown = format!("{:?}", name.chars().take(40).collect::<String>());
        refused(&shown, &with(name), part);
    }
    refused(
        "two names that differ in case",
        &with("MODEL.safetensors"),
        "it names both `",
    );
    refused(
        "one name twice",
        &with("config.json"),
        "it names both `config.json` and `config.json`",
    );
}

/// A Hub that lists one file more.
fn with(name: &str) -> Server {
    let name = name.to_owned();
    listed(move |listing| {
        listing["siblings"]
            .as_array_mut()
            .unwrap()
            .push(sibling(&name, b"x"));
    })
}

#[test]
fn a_hostile_commit_or_hash_is_joined_to_no_path() {
    for commit in [
        "../../../x",
        "",
        "/etc",
        "0123456789ABCDEF0123456789abcdef01234567",
        "main",
        &"a".repeat(41),
    ] {
        let said = commit.to_owned();
        refused(
            commit,
            &listed(move |listing| listing["sha"] = json!(said)),
            "its commit is",
        );
    }
    for hash in [
        "../../x",
        "",
        "/etc/passwd",
        &"A".repeat(64),
        &"a".repeat(63),
        &format!("{}/", "a".repeat(63)),
    ] {
        let said = hash.to_owned();
        refused(
            hash,
            &listed(move |listing| {
                set(listing, "model.safetensors", |sibling| {
                    sibling["lfs"]["sha256"] = json!(said);
                });
            }),
            "the hash of",
        );
        let said = hash.to_owned();
        refused(
            hash,
            &listed(move |listing| {
                set(listing, "config.json", |sibling| {
                    sibling["blobId"] = json!(said);
                });
            }),
            "the hash of",
        );
    }
    for size in [json!(-1), json!("1"), json!(1.5), json!(null), json!([])] {
        refused(
            "size",
            &listed(move |listing| {
                set(listing, "config.json", |sibling| {
                    sibling["size"] = size.clone();
                });
            }),
            "`config.json` has no size",
        );
    }
}

fn set(listing: &mut Value, name: &str, change: impl Fn(&mut Value)) {
    listing["siblings"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .filter(|sibling| sibling["rfilename"] == name)
        .for_each(change);
}

/// What a server says in headers is not believed at all: names come from the listing that was
/// checked.
#[test]
fn hostile_headers_lead_nowhere() {
    let (files, place) = (llama(), Place::new());
    let server = hub_but(&files.clone(), move |request| {
        let hostile = |answer: Answer| {
            [
                "ETag",
                "X-Linked-ETag",
                "X-Repo-Commit",
                "Content-Disposition",
            ]
            .into_iter()
            .fold(answer, |answer, name| {
                answer.header(name, "\"../../../../x\"")
            })
        };
        Some(hostile(answer(&files, request)))
    });
    place.pull(&server).unwrap();
    place.holds(&llama());
    assert!(place.files().iter().all(
        |name| name.starts_with("hub/models--owner--name/") || name.starts_with("hub/.locks/")
    ));
}

#[test]
fn an_answer_that_is_none_is_refused() {
    for (what, body) in [
        ("no JSON", "<html>"),
        ("a list", "[]"),
        ("nothing", ""),
        ("deep", &*"[".repeat(1 << 20)),
    ] {
        let body = body.to_owned();
        let server = Server::start(move |_| Answer::ok(&body));
        refused(what, &server, "it ");
    }
    let huge = Server::start(|_| Answer::ok(vec![b' '; (16 << 20) + 1]));
    refused("huge", &huge, "it is longer than 16 MiB");
    let endless = Server::start(|_| Answer {
        length: Some(1 << 60),
        ..Answer::ok(vec![b' '; 17 << 20])
    });
    refused("endless", &endless, "it is longer than 16 MiB");
}

#[test]
fn redirects_end_and_go_to_servers_only() {
    let place = Place::new();
    let circle = Server::start(|_| Answer::redirect("/x"));
    let error = place.pull(&circle).unwrap_err();
    assert!(
        error.to_string().contains("redirects more than 10 times"),
        "{error}"
    );
    assert_eq!(circle.requests().len(), 11);
    for to in [
        "file:///etc/passwd",
        "ftp://x/y",
        "",
        "gopher://x",
        "http://user:secret@127.0.0.1/x",
    ] {
        let server = Server::start(move |_| Answer::redirect(to));
        let error = place.pull(&server).unwrap_err();
        assert!(
            matches!(error, HubError::Redirect { .. }) && !error.to_string().contains("secret"),
            "{to}: {error}"
        );
        assert_eq!(server.requests().len(), 1);
    }
}
