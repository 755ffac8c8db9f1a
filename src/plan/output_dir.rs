//! The folder of a run.

use std::path::{Path, PathBuf};

use crate::recipe::Recipe;

/// Returns the folder of a recipe's run: the one that it names, or one with the recipe's name.
pub(super) fn output_dir(recipe: &Recipe) -> PathBuf {
    let stem = recipe.path.file_stem().unwrap_or(recipe.path.as_os_str());
    recipe.output_dir.as_ref().map_or_else(
        || Path::new("checkpoints").join(stem),
        |said| said.value.clone(),
    )
}
