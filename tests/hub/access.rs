//! Who gets the token, and what a person is told who may not have something.

use rankine::fault::Explain;
use rankine::hub::{HubError, RepoId, TokenUse, pull_with};

use super::repository::*;
use super::server::{Answer, Server};

const TOKEN: &str = "hf_canaryQ7xv2mPzR4";

fn pull_with_token(place: &Place, endpoint: &str) -> Result<rankine::hub::Pulled, HubError> {
    let environment = place.environment(endpoint, &[("HF_TOKEN", TOKEN)]);
    pull_with(&environment, PATIENCE, &RepoId::parse(ID).unwrap(), &|_| {})
}

#[test]
fn only_the_hub_itself_gets_the_token() {
    let (files, place) = (llama(), Place::new());
    let elsewhere = hub(&files);
    let there = elsewhere.address.clone();
    let server = hub_but(&files, move |request| {
        request
            .path
            .contains("/resolve/")
            .then(|| Answer::redirect(&format!("{there}{}", request.path)))
    });
    pull_with_token(&place, &server.address).unwrap();
    place.holds(&files);
    assert!(
        server
            .requests()
            .iter()
            .all(|request| request.header("authorization") == format!("Bearer {TOKEN}"))
    );
    assert!(!elsewhere.requests().is_empty());
    assert!(
        elsewhere
            .requests()
            .iter()
            .all(|request| !request.headers.values().any(|value| value.contains(TOKEN)))
    );
    // A redirect that stays keeps it, and without a token there is none to send.
    let place = Place::new();
    let files_of = files.clone();
    let server = Server::start(move |request| match request.path.strip_prefix("/moved") {
        Some(rest) => answer(
            &files_of,
            &super::server::Request {
                path: rest.to_owned(),
                ..request.clone()
            },
        ),
        None => Answer::redirect(&format!("/moved{}", request.path)),
    });
    pull_with_token(&place, &server.address).unwrap();
    assert!(
        server
            .requests()
            .iter()
            .all(|request| !request.header("authorization").is_empty())
    );
    let place = Place::new();
    place.pull(&server).unwrap();
    assert!(
        server
            .requests()
            .iter()
            .rev()
            .take(5)
            .all(|request| request.header("authorization").is_empty())
    );
}

#[test]
fn an_address_of_a_file_that_has_run_out_is_asked_for_again() {
    let (files, place) = (llama(), Place::new());
    let count = std::sync::atomic::AtomicUsize::new(0);
    let elsewhere = hub_but(&files, move |_| {
        (count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 2)
            .then(|| Answer::new(403, "expired"))
    });
    let there = elsewhere.address.clone();
    let server = hub_but(&files, move |request| {
        request
            .path
            .contains("/resolve/")
            .then(|| Answer::redirect(&format!("{there}{}?X-Signature=s", request.path)))
    });
    place.pull(&server).unwrap();
    place.holds(&files);
}

fn refusal(token: bool, answer: Answer) -> (HubError, Server) {
    let place = Place::new();
    let server = Server::start(move |_| answer.clone());
    let error = if token {
        pull_with_token(&place, &server.address)
    } else {
        place.pull(&server)
    }
    .unwrap_err();
    println!("{error}\nhint: {:?}", error.hint());
    assert!(
        !format!("{error}{error:?}{:?}", error.hint()).contains(TOKEN),
        "{error:?}"
    );
    assert_eq!((server.requests().len(), place.files().len()), (1, 0));
    (error, server)
}

#[test]
fn who_may_not_is_told_what_to_do() {
    let (error, server) = refusal(false, Answer::new(401, ""));
    assert!(matches!(
        error,
        HubError::Denied {
            status: 401,
            token: TokenUse::None,
            ..
        }
    ));
    assert!(
        error
            .to_string()
            .contains("answered 401, no token was sent"),
        "{error}"
    );
    let hint = error.hint().unwrap();
    assert!(
        hint.contains(&format!(
            "accept the license at {}/owner/name",
            server.address
        )) && hint.contains("HF_TOKEN"),
        "{hint}"
    );

    let (error, server) = refusal(
        true,
        Answer::new(403, "").header("X-Error-Code", "GatedRepo"),
    );
    assert!(
        error.to_string().contains("answered 403, a token was sent"),
        "{error}"
    );
    assert!(
        error
            .hint()
            .unwrap()
            .contains(&format!("{}/owner/name", server.address))
    );

    let (error, _) = refusal(
        true,
        Answer::new(404, "").header("X-Error-Code", "RepoNotFound"),
    );
    assert!(
        error
            .to_string()
            .contains("`owner/name` (revision `main`) is not on the hub"),
        "{error}"
    );
    let (error, _) = refusal(
        true,
        Answer::new(404, "").header("X-Error-Code", "RevisionNotFound"),
    );
    assert!(
        error.to_string().contains("`owner/name` on the hub")
            && error.to_string().ends_with("has no revision `main`"),
        "{error}"
    );

    // A server that says the token back does not get it printed.
    let (error, _) = refusal(
        true,
        Answer::new(400, "").header("X-Error-Message", format!("bad token {TOKEN}")),
    );
    assert!(
        error
            .to_string()
            .contains("answered 400: bad token (the token)"),
        "{error}"
    );
    let (error, _) = refusal(
        true,
        Answer::new(418, format!(r#"{{"error": "no tea for {TOKEN}"}}"#)),
    );
    assert!(
        error
            .to_string()
            .contains("answered 418: no tea for (the token)"),
        "{error}"
    );
}

#[test]
fn a_token_goes_over_plain_http_to_this_machine_only() {
    let place = Place::new();
    // Nobody answers at this address (RFC 5737), and nobody is asked: a push would need the token.
    let environment = place.environment("http://192.0.2.1", &[("HF_TOKEN", TOKEN)]);
    let shipment = rankine::hub::Shipment {
        id: RepoId::parse(ID).unwrap(),
        files: Vec::new(),
        message: String::new(),
        visibility: rankine::hub::Visibility::AsOwner,
    };
    let error = rankine::hub::push_with(&environment, PATIENCE, &shipment, &|_| {}).unwrap_err();
    assert!(matches!(error, HubError::PlainHttp { .. }), "{error}");
}

#[test]
fn an_endpoint_that_is_none_is_told_and_a_secret_in_it_is_not() {
    let place = Place::new();
    for (endpoint, part) in [
        ("huggingface.co", "no http or https address"),
        ("ftp://x", "no http or https address"),
        (
            "https://user:secret@mirror",
            "an address with a name or password in it",
        ),
        ("https://", "no http or https address"),
    ] {
        let environment = place.environment(endpoint, &[]);
        let error =
            pull_with(&environment, PATIENCE, &RepoId::parse(ID).unwrap(), &|_| {}).unwrap_err();
        assert!(
            matches!(error, HubError::Endpoint { .. }) && error.to_string().contains(part),
            "{endpoint}: {error}"
        );
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
