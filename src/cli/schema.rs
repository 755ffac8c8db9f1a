//! `rankine schema`: the recipe's JSON Schema, for editors.

use super::{Failure, print};
use crate::recipe::schema as of_recipe;

pub(super) fn schema() -> Result<(), Failure> {
    print(serde_json::to_string_pretty(&of_recipe()).expect("a schema can be printed"))
}
