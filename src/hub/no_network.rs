//! Replacement of the network code in a build without the feature `hub`. Content of the cache is
//! found, and everything else is refused.

use super::{
    Cache, DatasetRequest, DatasetSnapshot, Environment, HubError, Pulled, PulledDataset, Pushed,
    RepoId, Shipment, Snapshot,
};
use crate::report::Reporter;

/// Returns a base from the cache.
///
/// # Errors
/// The base is not in the cache.
pub fn fetch(
    environment: &Environment,
    id: &RepoId,
    _report: Reporter,
) -> Result<Snapshot, HubError> {
    Cache::at(&environment.cache)
        .find(id)
        .map_err(|_| HubError::NotBuilt)
}

/// Refuses to pull a model.
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

/// Refuses to push files.
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

/// Returns a dataset from the cache.
///
/// # Errors
/// The dataset is not in the cache.
pub fn fetch_dataset(
    environment: &Environment,
    request: &DatasetRequest,
    _report: Reporter,
) -> Result<DatasetSnapshot, HubError> {
    environment.cached_dataset(request)
}

/// Returns the files that a lock names, from the cache.
///
/// # Errors
/// Some files are not in the cache.
pub fn fetch_locked(
    environment: &Environment,
    locked: DatasetSnapshot,
    _report: Reporter,
) -> Result<DatasetSnapshot, HubError> {
    locked.in_cache(environment)
}

/// Returns a dataset from the cache, as the result of a pull.
///
/// # Errors
/// The dataset is not in the cache.
pub fn pull_dataset(
    environment: &Environment,
    request: &DatasetRequest,
    _report: Reporter,
) -> Result<PulledDataset, HubError> {
    PulledDataset::cached(environment.cached_dataset(request)?)
}
