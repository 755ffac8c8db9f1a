//! A build without the feature `hub`: bases of the cache are found, and everything else is refused in one sentence.

use super::{Cache, Environment, Error, ModelId, Pulled, Pushed, Shipment, Snapshot};
use crate::report::Reporter;

/// A base that is in the cache.
///
/// # Errors
/// It is not there.
pub fn fetch(environment: &Environment, id: &ModelId, _report: Reporter) -> Result<Snapshot, Error> {
    Cache::at(&environment.cache).find(id).map_err(|_| Error::NotBuilt)
}

/// Nothing.
///
/// # Errors
/// Always.
pub fn pull(_environment: &Environment, _id: &ModelId, _report: Reporter) -> Result<Pulled, Error> {
    Err(Error::NotBuilt)
}

/// Nothing.
///
/// # Errors
/// Always.
pub fn push(_environment: &Environment, _shipment: &Shipment, _report: Reporter) -> Result<Pushed, Error> {
    Err(Error::NotBuilt)
}
