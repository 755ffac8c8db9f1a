//! Downloads that break off, and what the next try makes of what is there.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use rankine::hub::{HubError, Patience};

use super::repository::*;
use super::server::{Answer, Request};

const WEIGHTS: &str = "model.safetensors";

fn is_weights(request: &Request) -> bool {
    request.path.ends_with(WEIGHTS)
}

/// What a server does wrong with the weights, for so many requests.
fn wrong(
    times: usize,
    answer: impl Fn(&Request, &[u8]) -> Answer + Send + Sync + 'static,
) -> impl Fn(&Request) -> Option<Answer> {
    let (content, count) = (llama().remove(WEIGHTS).unwrap(), AtomicUsize::new(0));
    move |request| {
        (is_weights(request) && count.fetch_add(1, SeqCst) < times)
            .then(|| answer(request, &content))
    }
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_was() {
    let (files, place) = (llama(), Place::new());
    let server = hub_but(
        &files,
        wrong(3, |request, content| {
            Answer::content(request, content).cut(1000)
        }),
    );
    place.pull(&server).unwrap();
    place.holds(&files);
    let starts: Vec<_> = server
        .requests()
        .iter()
        .filter(|request| is_weights(request))
        .map(Request::start)
        .collect();
    assert_eq!(starts, [None, Some(1000), Some(2000), Some(3000)]);
}

#[test]
fn a_pull_goes_on_with_what_an_earlier_one_left() {
    let (files, place) = (llama(), Place::new());
    let server = hub_but(
        &files,
        wrong(usize::MAX, |request, content| {
            Answer::content(request, content).cut(1000)
        }),
    );
    let error = place.pull(&server).unwrap_err();
    let message = error.to_string();
    assert!(
        matches!(error, HubError::GaveUp { attempts: 5, .. }),
        "{message}"
    );
    assert!(
        message.contains("tried 5 times; 5000 of ") && message.contains("are kept"),
        "{message}"
    );
    let incomplete = place.incomplete(&sha256(&files[WEIGHTS]));
    assert_eq!(fs::metadata(&incomplete).unwrap().len(), 5000);
    assert!(
        !place.snapshot().join(WEIGHTS).exists() && !place.repository().join("refs/main").exists()
    );

    let server = hub(&files);
    place.pull(&server).unwrap();
    place.holds(&files);
    assert_eq!(
        server
            .requests()
            .iter()
            .find(|request| is_weights(request))
            .unwrap()
            .start(),
        Some(5000)
    );
}

#[test]
fn a_rest_that_is_too_long_or_whole_is_no_obstacle() {
    let (files, place) = (llama(), Place::new());
    let incomplete = place.incomplete(&sha256(&files[WEIGHTS]));
    fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
    fs::write(&incomplete, [&files[WEIGHTS][..], b"more"].concat()).unwrap();
    place.pull(&hub(&files)).unwrap();
    place.holds(&files);

    let place = Place::new();
    let incomplete = place.incomplete(&sha256(&files[WEIGHTS]));
    fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
    fs::write(&incomplete, &files[WEIGHTS]).unwrap();
    let server = hub(&files);
    place.pull(&server).unwrap();
    place.holds(&files);
    assert!(
        !server.requests().iter().any(is_weights),
        "all of it was there"
    );
}

#[test]
fn another_content_is_removed_and_told_with_both_hashes() {
    let (files, place) = (llama(), Place::new());
    let mut other = files[WEIGHTS].clone();
    *other.last_mut().unwrap() ^= 1;
    let (expected, found) = (sha256(&files[WEIGHTS]), sha256(&other));
    let server = hub_but(&files, move |request| {
        is_weights(request).then(|| Answer::content(request, &other))
    });
    let error = place.pull(&server).unwrap_err();
    let message = error.to_string();
    assert!(
        matches!(error, HubError::Hash { .. })
            && message.contains(&expected)
            && message.contains(&found),
        "{message}"
    );
    assert!(
        !place
            .files()
            .iter()
            .any(|name| name.contains(&expected) && !name.starts_with("hub/.locks/")),
        "{:?}",
        place.files()
    );
    assert!(!place.snapshot().join(WEIGHTS).exists());

    // The same of a small file, which git hashes.
    let place = Place::new();
    let server = hub_but(&files, |request| {
        request
            .path
            .ends_with("/config.json")
            .then(|| Answer::ok(" ".repeat(llama()["config.json"].len())))
    });
    let message = place.pull(&server).unwrap_err().to_string();
    assert!(
        message.contains("`config.json` has the git hash")
            && message.contains(&git_hash(&files["config.json"])),
        "{message}"
    );
}

#[test]
fn a_rest_of_another_content_is_found_out() {
    let (files, place) = (llama(), Place::new());
    let incomplete = place.incomplete(&sha256(&files[WEIGHTS]));
    fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
    fs::write(&incomplete, [0; 4000]).unwrap();
    let error = place.pull(&hub(&files)).unwrap_err();
    assert!(matches!(error, HubError::Hash { .. }), "{error}");
    assert!(!incomplete.exists());
    place.pull(&hub(&files)).unwrap();
    place.holds(&files);
}

#[test]
fn another_size_is_refused() {
    let (files, place) = (llama(), Place::new());
    let length = files[WEIGHTS].len();
    let longer = hub_but(
        &files,
        wrong(usize::MAX, |_, content| {
            Answer::ok([content, b"x"].concat())
        }),
    );
    let message = place.pull(&longer).unwrap_err().to_string();
    assert!(
        message.contains(&format!(
            "the server sends {} bytes, the listing says {length}",
            length + 1
        )),
        "{message}"
    );
    let shorter = hub_but(
        &files,
        wrong(usize::MAX, |_, content| Answer::ok(&content[..100])),
    );
    let message = place.pull(&shorter).unwrap_err().to_string();
    assert!(message.contains("the server sends 100 bytes"), "{message}");
}

#[test]
fn a_server_that_ignores_the_range_starts_the_file_over() {
    let (files, place) = (llama(), Place::new());
    let server = hub_but(&files, {
        let cut = wrong(1, |_, content| Answer::ok(content).cut(1000));
        let files = files.clone();
        move |request| {
            cut(request).or_else(|| is_weights(request).then(|| Answer::ok(&files[WEIGHTS])))
        }
    });
    place.pull(&server).unwrap();
    place.holds(&files);
}

#[test]
fn another_part_than_the_one_that_was_asked_for_starts_the_file_over_once() {
    let cut = || wrong(1, |_, content| Answer::ok(content).cut(1000));
    let parts: [fn(&[u8]) -> Answer; 4] = [
        |_| Answer::new(416, ""),
        |content| {
            Answer::new(206, content).header(
                "Content-Range",
                format!("bytes 0-{}/{}", content.len() - 1, content.len()),
            )
        },
        |content| Answer::new(206, &content[1000..]).header("Content-Range", "bytes 1000-9/12"),
        |content| Answer::new(206, &content[1000..]),
    ];
    for part in parts {
        let (files, place) = (llama(), Place::new());
        let server = hub_but(&files, {
            let (cut, files) = (cut(), files.clone());
            move |request| cut(request).or_else(|| request.start().map(|_| part(&files[WEIGHTS])))
        });
        place.pull(&server).unwrap();
        place.holds(&files);
        let starts: Vec<_> = server
            .requests()
            .iter()
            .filter(|request| is_weights(request))
            .map(Request::start)
            .collect();
        assert_eq!(starts, [None, Some(1000), None]);
    }
    // Without a range nothing can be a part.
    let (files, place) = (llama(), Place::new());
    let server = hub_but(
        &files,
        wrong(usize::MAX, |_, content| Answer::new(206, &content[5..])),
    );
    assert!(matches!(
        place.pull(&server),
        Err(HubError::Status { status: 206, .. })
    ));
}

#[test]
fn a_server_that_falls_silent_is_left() {
    let (files, place) = (llama(), Place::new());
    let server = hub_but(
        &files,
        wrong(2, |request, content| Answer {
            stall: Some(Duration::from_secs(2)),
            ..Answer::content(request, content).cut(1000)
        }),
    );
    let patience = Patience {
        stall: Duration::from_millis(300),
        ..PATIENCE
    };
    place.pull_with(&server.address, ID, patience).unwrap();
    place.holds(&files);
    let starts: Vec<_> = server
        .requests()
        .iter()
        .filter(|request| is_weights(request))
        .map(Request::start)
        .collect();
    assert_eq!(starts, [None, Some(1000), Some(2000)]);
}

#[test]
fn a_server_that_is_overloaded_is_asked_again_and_not_for_ever() {
    for (status, hint) in [(429, ""), (500, ""), (502, ""), (503, ""), (504, "")] {
        let (files, place) = (llama(), Place::new());
        let count = AtomicUsize::new(0);
        let server = hub_but(&files, move |_| {
            (count.fetch_add(1, SeqCst) < 4).then(|| Answer::new(status, hint))
        });
        place.pull(&server).unwrap();
        place.holds(&files);

        let place = Place::new();
        let server = hub_but(&files, move |_| {
            Some(Answer::new(status, "").header("Retry-After", 100_000))
        });
        let message = place.pull(&server).unwrap_err().to_string();
        assert!(
            message.contains(&format!("answered {status}; tried 5 times")),
            "{message}"
        );
        assert_eq!(server.requests().len(), 5);
        assert_eq!(place.files(), Vec::<String>::new());
    }
}

#[test]
fn nobody_there_is_told() {
    let place = Place::new();
    let server = hub(&llama());
    let address = server.address.clone();
    drop(server);
    let message = place.pull_at(&address, ID).unwrap_err().to_string();
    assert!(
        message.contains("127.0.0.1") && message.contains("tried 5 times"),
        "{message}"
    );
}

#[test]
fn two_pulls_at_once_do_not_meet() {
    let (files, place) = (llama(), Place::new());
    let server = hub(&files);
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| place.pull(&server).unwrap()))
            .collect();
        for pull in pulls {
            pull.join().unwrap();
        }
    });
    place.holds(&files);
    assert_eq!(
        server
            .requests()
            .iter()
            .filter(|request| is_weights(request))
            .count(),
        1,
        "one downloads and the others wait"
    );
}
