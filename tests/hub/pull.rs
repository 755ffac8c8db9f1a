//! What is fetched, and that it is fetched once.

use std::fs;

use rankine::hub::{Cache, HubError, Missing, RepoId};

use super::repository::*;
use super::server::Answer;

#[test]
fn a_model_is_fetched_once_and_only_what_is_of_use() {
    let (files, place) = (llama(), Place::new());
    let server = hub(&files);
    let pulled = place.pull(&server).unwrap();
    place.holds(&files);
    assert_eq!(
        (pulled.snapshot.folder, pulled.skipped),
        (place.snapshot(), 2)
    );
    let bytes: usize = files
        .iter()
        .filter(|(name, _)| place.snapshot().join(name).exists())
        .map(|(_, content)| content.len())
        .sum();
    assert_eq!(pulled.downloaded_bytes, bytes as u64);
    assert_eq!(
        pulled.files.iter().map(|(_, bytes)| bytes).sum::<u64>(),
        bytes as u64
    );
    let asked = server.take();
    assert_eq!(asked[0], "GET /api/models/owner/name/revision/main");
    assert_eq!(asked.len(), 1 + pulled.files.len(), "{asked:?}");

    let again = place.pull(&server).unwrap();
    assert_eq!((again.downloaded_bytes, again.files), (0, pulled.files));
    assert_eq!(server.take(), ["GET /api/models/owner/name/revision/main"]);
    place.pull_id(&server, &format!("{ID}@{COMMIT}")).unwrap();
    assert_eq!(
        server.take(),
        [format!("GET /api/models/owner/name/revision/{COMMIT}")]
    );
}

#[test]
fn a_branch_of_several_parts_is_one_part_of_an_address() {
    let (files, place) = (llama(), Place::new());
    let server = hub_but(&files, {
        let files = files.clone();
        move |request| {
            (request.path.contains("revision/refs%2Fpr%2F1"))
                .then(|| Answer::ok(listing(&files).to_string()))
        }
    });
    place.pull_id(&server, "owner/name@refs/pr/1").unwrap();
    assert_eq!(
        fs::read_to_string(place.repository().join("refs/refs/pr/1")).unwrap(),
        COMMIT
    );
    let found = Cache::at(&place.cache())
        .find(&RepoId::parse("owner/name@refs/pr/1").unwrap())
        .unwrap();
    assert_eq!(found.folder, place.snapshot());
}

#[test]
fn a_file_that_is_shared_or_changed_is_fetched_as_far_as_it_is_new() {
    let (mut files, place) = (llama(), Place::new());
    place.pull(&hub(&files)).unwrap();
    files.insert("README.md".into(), b"# a card".to_vec());
    files.insert("LICENSE".into(), b"# a card".to_vec());
    let server = hub(&files);
    let pulled = place.pull(&server).unwrap();
    place.holds(&files);
    assert_eq!(pulled.downloaded_bytes, 8, "one content of two names");

    // A content of another length than its name says was damaged here.
    let blob = place
        .repository()
        .join("blobs")
        .join(hash("config.json", &files["config.json"]));
    fs::write(&blob, "{").unwrap();
    assert_eq!(
        place.pull(&server).unwrap().downloaded_bytes,
        files["config.json"].len() as u64
    );
    place.holds(&files);
}

/// The layout as the documentation of `huggingface_hub` draws it, made by hand, with what its
/// client leaves beside.
#[cfg(unix)]
#[test]
fn a_cache_of_pythons_client_is_found_and_goes_on() {
    use std::os::unix::fs::symlink;
    let (files, place) = (llama(), Place::new());
    let repository = place.repository();
    for folder in ["blobs", "refs", ".no_exist", "snapshots"] {
        fs::create_dir_all(repository.join(folder)).unwrap();
    }
    fs::create_dir_all(place.snapshot()).unwrap();
    fs::create_dir_all(place.cache().join(".locks/models--owner--name")).unwrap();
    fs::write(place.cache().join("version.txt"), "1").unwrap();
    fs::write(repository.join("refs/main"), COMMIT).unwrap();
    let cache = Cache::at(&place.cache());
    let id = RepoId::parse(ID).unwrap();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        assert!(
            matches!(cache.find(&id), Err(Missing::Files { .. })),
            "before {name}"
        );
        let content = &files[name];
        fs::write(repository.join("blobs").join(hash(name, content)), content).unwrap();
        symlink(
            format!("../../blobs/{}", hash(name, content)),
            place.snapshot().join(name),
        )
        .unwrap();
    }
    assert_eq!(cache.find(&id).unwrap().folder, place.snapshot());
    let server = hub(&files);
    let pulled = place.pull(&server).unwrap();
    let asked = server.take().join("\n");
    assert!(
        !asked.contains("model.safetensors") && !asked.contains("resolve/COMMIT/config.json"),
        "{asked}"
    );
    assert!(pulled.downloaded_bytes < files["model.safetensors"].len() as u64);
    place.holds(&files);
}

#[test]
fn a_model_that_this_disk_has_no_room_for_is_refused_before_its_first_byte() {
    let (files, place) = (llama(), Place::new());
    let server = hub_but(&files, {
        let files = files.clone();
        move |request| {
            let mut listing = listing(&files);
            for sibling in listing["siblings"].as_array_mut().unwrap() {
                if sibling["rfilename"] == "model.safetensors" {
                    sibling["size"] = (1_u64 << 60).into();
                    sibling["lfs"]["size"] = (1_u64 << 60).into();
                }
            }
            request
                .path
                .starts_with("/api/")
                .then(|| Answer::ok(listing.to_string()))
        }
    });
    let error = place.pull(&server).unwrap_err();
    assert!(
        matches!(&error, HubError::File(_))
            && error.to_string().contains("bytes are needed, the disk has"),
        "{error}"
    );
    assert_eq!(server.take().len(), 1);
    assert_eq!(place.files(), Vec::<String>::new());
}

#[test]
fn weights_in_shards_leave_the_makers_own_copy_there() {
    let (mut files, place) = (llama(), Place::new());
    let weights = files.remove("model.safetensors").unwrap();
    files.insert("model-00001-of-00001.safetensors".into(), weights.clone());
    files.insert(
        "model.safetensors.index.json".into(),
        br#"{"weight_map": {"a": "model-00001-of-00001.safetensors"}}"#.to_vec(),
    );
    files.insert("consolidated.safetensors".into(), weights);
    let server = hub(&files);
    place.pull(&server).unwrap();
    assert!(!place.snapshot().join("consolidated.safetensors").exists());
    assert!(
        Cache::at(&place.cache())
            .find(&RepoId::parse(ID).unwrap())
            .is_ok()
    );
}

#[test]
fn pickles_alone_are_refused_by_name() {
    let (mut files, place) = (llama(), Place::new());
    files.remove("model.safetensors");
    let error = place.pull(&hub(&files)).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("has no safetensors file, only `pytorch_model.bin`"),
        "{error}"
    );
}
