//! A build without the feature `hub`: bases of the cache are found, and everything else is refused
//! in one sentence.

use super::{
    Cache, DatasetRequest, DatasetSnapshot, Environment, HubError, Pulled, PulledDataset, Pushed,
    RepoId, Shipment, Snapshot,
};
use crate::report::Reporter;

/// A base that is in the cache.
///
/// # Errors
/// It is not there.
pub fn fetch(
    environment: &Environment,
    id: &RepoId,
    _report: Reporter,
) -> Result<Snapshot, HubError> {
    Cache::at(&environment.cache)
        .find(id)
        .map_err(|_| HubError::NotBuilt)
}

/// Nothing.
///
/// # Errors
/// Always.
pub fn pull(
    _environment: &Environment,
    _id: &RepoId,
    _report: Reporter,
) -> Result<Pulled, HubError> {
    Err(HubError::NotBuilt)
}

/// Nothing.
///
/// # Errors
/// Always.
pub fn push(
    _environment: &Environment,
    _shipment: &Shipment,
    _report: Reporter,
) -> Result<Pushed, HubError> {
    Err(HubError::NotBuilt)
}

/// A data set that is in the cache.
///
/// # Errors
/// It is not there.
pub fn fetch_dataset(
    environment: &Environment,
    request: &DatasetRequest,
    _report: Reporter,
) -> Result<DatasetSnapshot, HubError> {
    environment.cached_dataset(request)
}

/// The files that a lock names, which are in the cache.
///
/// # Errors
/// They are not there.
pub fn fetch_locked(
    environment: &Environment,
    locked: DatasetSnapshot,
    _report: Reporter,
) -> Result<DatasetSnapshot, HubError> {
    locked.in_cache(environment)
}

/// A data set that is in the cache, as a pull that had nothing to do.
///
/// # Errors
/// It is not there.
pub fn pull_dataset(
    environment: &Environment,
    request: &DatasetRequest,
    _report: Reporter,
) -> Result<PulledDataset, HubError> {
    PulledDataset::cached(environment.cached_dataset(request)?)
}
