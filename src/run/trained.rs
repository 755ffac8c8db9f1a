//! An adapter or a model that is opened on its base.

use std::path::Path;

use super::artifact::Artifact;
use super::base::{find_adapter, no_folder, read_adapter};
use crate::adapter::{LoraConfig, Numbers, attach};
use crate::fault::{Exit, Failure, Fault};
use crate::model::{Decoder, DecoderSpec, Folder};
use crate::report::Reporter;
use crate::terms::ModelDtype;

/// Opened adapter or model; the weights of a model are not loaded yet.
pub enum Opened {
    /// An adapter.
    Adapter(Box<(LoraConfig, Numbers)>),
    /// A model.
    Model(Box<Folder>),
}

impl Artifact {
    /// Returns `adapter` or `model`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Adapter(_) => "adapter",
            Self::Model(_) => "model",
        }
    }

    /// Returns the folder.
    pub fn path(&self) -> &Path {
        match self {
            Self::Adapter(path) | Self::Model(path) => path,
        }
    }

    /// Opens the folder and checks it against the base.
    pub fn open(&self, base: &DecoderSpec, report: Reporter) -> Result<Opened, Failure> {
        match self {
            Self::Adapter(path) => Ok(Opened::Adapter(Box::new(read_adapter(
                &find_adapter(path)?,
                &base.modules(),
                report,
            )?))),
            Self::Model(path) if !path.is_dir() => Err(no_folder(
                "model ",
                path,
                "a folder",
                "the run has not come so far, or its model was moved",
            )),
            Self::Model(path) => {
                let folder = Folder::open(path)?;
                folder.check_weights()?;
                match folder
                    .spec
                    .mismatch(&format!("`{}`", path.display()), base, "its base")
                {
                    None => Ok(Opened::Model(Box::new(folder))),
                    Some(message) => Err(Failure::new(
                        Exit::Input,
                        Fault::new(message).hint("the run was trained on another base"),
                    )),
                }
            }
        }
    }
}

impl Opened {
    /// Returns the trained model: the base with the adapter, or the model loaded in this type.
    pub fn on(
        self,
        mut base: Decoder,
        dtype: ModelDtype,
        report: Reporter,
    ) -> Result<Decoder, Failure> {
        match self {
            Self::Adapter(adapter) => attach(&mut base, &adapter.0, 0, Some(&adapter.1))?,
            Self::Model(folder) => {
                let device = base.device();
                drop(base);
                return Ok(folder.load(dtype, &device, report)?);
            }
        }
        Ok(base)
    }
}
