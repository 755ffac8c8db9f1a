//! Verdicts that are kept, each for one device under one driver, one version of Rankine and one set
//! of mechanisms. A proof takes seconds, and longer where kernels are compiled for it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Products;
use super::compare::Verdict;
use super::probe_model::ProbeModel;
use crate::device::Identity;
use crate::files::{
    self, JSON_BYTES, hash_bytes, private_cache_folder, read_text_up_to, write_atomic,
};
use crate::terms::{ModelDtype, Term};

/// The folder of verdicts within the cache folder.
const FOLDER: &str = "proofs";

/// Conditions that a verdict applies to: it says nothing where any of these differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// The version of Rankine.
    pub rankine: String,
    /// `wgpu` or `cuda`.
    pub backend: String,
    /// The name that the device reports.
    pub device: String,
    /// Its driver with the version.
    pub driver: String,
    /// The format in which the base's matrices are kept.
    pub storage: String,
    /// The training method.
    pub trained: String,
    /// The precision of products of float32 operands.
    pub products: String,
    /// A hash of the small model.
    pub mechanisms: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CachedVerdict {
    #[serde(flatten)]
    key: Key,
    verdict: Verdict,
}

/// Returns all verdicts on a device in 32 bits that a cache folder keeps: the bounds of 16 bits and
/// of TF32 tell little about its kernels.
pub(super) fn all_of(identity: &Identity, cache: &Path) -> Vec<Verdict> {
    let files = std::fs::read_dir(cache.join(FOLDER))
        .into_iter()
        .flatten()
        .flatten();
    let kept = files.filter_map(|file| {
        serde_json::from_str::<CachedVerdict>(&read_text_up_to(&file.path(), JSON_BYTES).ok()?).ok()
    });
    let is_told = |key: &Key| key.is_of(identity) && key.is_in_float32();
    kept.filter(|kept| is_told(&kept.key))
        .map(|kept| kept.verdict)
        .collect()
}

impl Key {
    /// Returns the key of a device and a small model.
    pub fn of(identity: &Identity, tiny: &ProbeModel, products: Products) -> Self {
        Self {
            rankine: identity.version.to_owned(),
            backend: identity.backend.to_owned(),
            device: identity.name.clone(),
            driver: identity.driver.clone(),
            storage: tiny.storage.to_string(),
            trained: tiny.trained.to_string(),
            products: products.word().to_owned(),
            mechanisms: hash_bytes(format!("{:?}", tiny.spec).as_bytes()).to_string(),
        }
    }

    fn is_of(
        &self,
        Identity {
            backend,
            name,
            driver,
            version,
        }: &Identity,
    ) -> bool {
        self.rankine == *version
            && self.backend == *backend
            && self.device == *name
            && self.driver == *driver
    }

    fn is_in_float32(&self) -> bool {
        let dtype = self.storage.split(',').next();
        dtype == Some(ModelDtype::Float32.word()) && self.products == Products::Float32.word()
    }

    fn path(&self, cache: &Path) -> PathBuf {
        let Self {
            rankine,
            backend,
            device,
            driver,
            storage,
            trained,
            products,
            mechanisms,
        } = self;
        // No separator is in a version, a word or a hash; names of devices stand in the middle,
        // driver last.
        let all = [
            rankine, backend, storage, trained, products, mechanisms, device, driver,
        ]
        .map(String::as_str)
        .join("\n");
        cache
            .join(FOLDER)
            .join(format!("{}.json", hash_bytes(all.as_bytes())))
    }

    /// Reads the verdict from a cache folder; `None` where it cannot be read.
    pub fn verdict(&self, cache: &Path) -> Option<Verdict> {
        let text = read_text_up_to(&self.path(cache), JSON_BYTES).ok()?;
        let kept: CachedVerdict = serde_json::from_str(&text).ok()?;
        (kept.key == *self).then_some(kept.verdict)
    }

    /// Writes a verdict into a cache folder.
    ///
    /// # Errors
    /// The verdict cannot be written.
    pub fn keep(&self, cache: &Path, verdict: &Verdict) -> Result<(), files::FileError> {
        let kept = CachedVerdict {
            key: self.clone(),
            verdict: verdict.clone(),
        };
        let text = serde_json::to_string_pretty(&kept).expect("numbers and words are JSON");
        private_cache_folder(cache)?;
        write_atomic(&self.path(cache), text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::super::compare::{Bound, Difference, Finding};
    use super::*;
    use crate::model::Storage;
    use crate::quant::QuantFormat;
    use crate::terms::Method;

    fn identity(backend: &'static str, name: &str, driver: &str) -> Identity {
        Identity {
            backend,
            name: name.to_owned(),
            driver: driver.to_owned(),
            version: "1.0.0",
        }
    }

    fn of(backend: &'static str, name: &str, driver: &str, tiny: &ProbeModel) -> Key {
        Key::of(&identity(backend, name, driver), tiny, Products::Float32)
    }

    #[test]
    fn a_verdict_is_found_for_what_it_was_made_of_only() {
        let cache = tempfile::tempdir().expect("a temporary folder");
        let tiny = ProbeModel::of_all_mechanisms(ModelDtype::Auto, Method::Lora);
        let key = of("wgpu", "a GPU", "a driver 1.2", &tiny);
        let finding = Finding {
            site: "loss".to_owned(),
            difference: Difference::Error {
                norm: 1.0 / 3.0,
                largest: 2e-9,
            },
        };
        let zero = Finding {
            site: "output".to_owned(),
            difference: Difference::Zero,
        };
        let bound = Bound::FLOAT32;
        let verdict = Verdict {
            sites: 3,
            failures: 2,
            bound,
            first: Some(zero),
            worst: finding,
        };
        assert_eq!(key.verdict(cache.path()), None);
        key.keep(cache.path(), &verdict).expect("kept");
        assert_eq!(
            key.verdict(cache.path()),
            Some(verdict.clone()),
            "every digit"
        );

        let full = ProbeModel {
            trained: Method::Full,
            ..tiny.clone()
        };
        let narrow = ProbeModel {
            storage: ModelDtype::Bfloat16.into(),
            ..tiny.clone()
        };
        let packed = Storage {
            form: Some(QuantFormat::QLORA),
            ..tiny.storage
        };
        let packed = ProbeModel {
            storage: packed,
            ..tiny.clone()
        };
        let mut tied = tiny.clone();
        tied.spec.tied_head = true;
        let tf32 = Key::of(
            &identity("wgpu", "a GPU", "a driver 1.2"),
            &tiny,
            Products::Tf32,
        );
        let others = [
            of("cuda", "a GPU", "a driver 1.2", &tiny),
            of("wgpu", "another GPU", "a driver 1.2", &tiny),
            of("wgpu", "a GPU", "a driver 1.3", &tiny),
            of("wgpu", "a GPU", "a driver 1.2", &full),
            of("wgpu", "a GPU", "a driver 1.2", &narrow),
            of("wgpu", "a GPU", "a driver 1.2", &packed),
            of("wgpu", "a GPU", "a driver 1.2", &tied),
            tf32.clone(),
            Key {
                rankine: "0.0.0".to_owned(),
                ..key.clone()
            },
        ];
        assert!(
            others
                .iter()
                .all(|other| other.verdict(cache.path()).is_none())
        );
        assert_eq!(
            all_of(&identity("wgpu", "a GPU", "a driver 1.2"), cache.path()),
            std::slice::from_ref(&verdict)
        );
        assert!(all_of(&identity("wgpu", "a GPU", "a driver 1.3"), cache.path()).is_empty());
        tf32.keep(cache.path(), &verdict).expect("kept");
        assert_eq!(
            all_of(&identity("wgpu", "a GPU", "a driver 1.2"), cache.path()).len(),
            1,
            "one in TF32 tells nothing of float32"
        );

        std::fs::write(key.path(cache.path()), "{").expect("written");
        assert_eq!(
            key.verdict(cache.path()),
            None,
            "a damaged file is no verdict"
        );
        std::fs::copy(
            written(&others[0], cache.path(), &verdict),
            key.path(cache.path()),
        )
        .expect("copied");
        assert_eq!(
            key.verdict(cache.path()),
            None,
            "one of another device under this name is none"
        );
    }

    fn written(key: &Key, cache: &Path, verdict: &Verdict) -> PathBuf {
        key.keep(cache, verdict).expect("kept");
        key.path(cache)
    }
}
