//! The datasets of a recipe, filled, with what their files hold.

use std::collections::BTreeMap;

use serde_json::json;

use super::base::noted;
use super::data_files;
use super::filled::Filled;
use super::hub_data::{self, Snapshots};
use super::selection::{check_keys, selected};
use crate::data::{self, DataFile, DataSource};
use crate::fault::{Explain, Fault};
use crate::recipe::{Dataset, Said};
use crate::terms::{Format, Term, TrainOn};

/// The context in which the datasets of a recipe are read.
pub(super) struct Reading<'a> {
    /// Whether there is a chat template.
    pub has_template: bool,
    pub hub: &'a Snapshots,
    pub filled: &'a mut Filled,
    pub faults: &'a mut Vec<Fault>,
}

impl Reading<'_> {
    /// Returns the datasets of a section. Those with faults are left out.
    pub fn sources(
        &mut self,
        section: &str,
        datasets: &[Dataset],
        files: Vec<data_files::Found>,
    ) -> Vec<DataSource> {
        let each = datasets.iter().zip(files).enumerate();
        each.filter_map(|(index, (dataset, files))| {
            self.source(&format!("{section}.{index}"), dataset, files)
        })
        .collect()
    }

    fn source(
        &mut self,
        section: &str,
        dataset: &Dataset,
        files: data_files::Found,
    ) -> Option<DataSource> {
        self.fill_place(section, dataset);
        let (said, key) = (dataset.format.as_ref(), format!("{section}.format"));
        let Some(format) = self
            .filled
            .optional(&key, said, |format| json!(format.word()))
        else {
            let first = files.as_deref().ok().and_then(<[_]>::first);
            propose(section, first, self.faults);
            return None;
        };
        let columns = self.columns(section, dataset);
        let roles = self.roles(section, dataset);
        let (train_on, system) = self.trained_parts(section, dataset, format);
        if !self.has_template && is_rendered(dataset, &files) {
            let place = &dataset.format.as_ref()?.place;
            self.faults
                .push(without_template(section, format).at(place));
        }
        let place = &dataset.path.as_ref()?.place;
        // A row that is wrong has a place of its own.
        let placed = |fault: Fault| {
            if fault.place.is_none() {
                fault.at(place)
            } else {
                fault
            }
        };
        let (faults, snapshot) = (&mut *self.faults, self.hub.get(section));
        let files = files
            .map_err(|found| faults.extend(found.into_iter().map(placed)))
            .ok()?;
        let rows: Vec<Option<u64>> = files
            .iter()
            .map(|file| noted(data::inspect(file, format, &columns), place, faults))
            .collect();
        let is_absent = snapshot.is_none() && hub_data::is_of_hub(dataset);
        let selected = if is_absent {
            None
        } else {
            check_keys(section, dataset, snapshot, faults);
            // Of a file that cannot be read there is a fault already.
            let rows: Option<Vec<u64>> = rows.into_iter().collect();
            selected(section, dataset, &rows?, snapshot, faults)
        };
        Some(DataSource {
            files,
            selected,
            format,
            columns,
            roles,
            train_on,
            system,
            labels: None,
        })
    }

    /// Fills which files and rows a dataset has.
    fn fill_place(&mut self, section: &str, dataset: &Dataset) {
        let (filled, key) = (&mut *self.filled, |name: &str| format!("{section}.{name}"));
        filled.optional(&key("path"), dataset.path.as_ref(), |path| json!(path));
        filled.optional(&key("config"), dataset.config.as_ref(), |config| {
            json!(config)
        });
        filled.optional(&key("split"), dataset.split.as_ref(), |split| {
            json!(split.written)
        });
        filled.optional(&key("max_rows"), dataset.max_rows.as_ref(), |rows| {
            json!(rows)
        });
    }

    /// Fills the names of a dataset's columns.
    fn columns(&mut self, section: &str, dataset: &Dataset) -> BTreeMap<String, String> {
        for (name, said) in &dataset.columns {
            let key = format!("{section}.columns.{name}");
            self.filled.plain(&key, Some(said), String::new());
        }
        let named = dataset.columns.iter();
        named
            .map(|(name, said)| (name.clone(), said.value.clone()))
            .collect()
    }

    /// Fills a dataset's words for roles.
    fn roles(&mut self, section: &str, dataset: &Dataset) -> BTreeMap<String, String> {
        let roles: BTreeMap<String, String> = dataset
            .roles
            .iter()
            .map(|(word, said)| (word.clone(), said.value.clone()))
            .collect();
        let said = dataset.roles.values().next().map(|first| Said {
            value: roles.clone(),
            place: first.place.clone(),
        });
        let key = format!("{section}.roles");
        self.filled
            .optional(&key, said.as_ref(), |roles| json!(roles));
        roles
    }

    /// Fills which parts of a row are trained, and the system message of all rows. Rows of
    /// preferences and of classes have neither: the completions are what is compared, and texts
    /// what is scored.
    fn trained_parts(
        &mut self,
        section: &str,
        dataset: &Dataset,
        format: Format,
    ) -> (TrainOn, Option<String>) {
        if !format.has_trained_parts() {
            return (TrainOn::Assistant, None);
        }
        let default = if format == Format::Text {
            TrainOn::All
        } else {
            TrainOn::Assistant
        };
        let key = format!("{section}.train_on");
        let train_on = self.filled.word(&key, dataset.train_on.as_ref(), default);
        let (key, said) = (format!("{section}.system"), dataset.system.as_ref());
        let system = self.filled.optional(&key, said, |system| json!(system));
        (train_on, system)
    }
}

/// Makes the fault of rows that need a chat template where there is none.
fn without_template(section: &str, format: Format) -> Fault {
    let rows = if format == Format::Chat {
        "`chat` needs"
    } else {
        "messages in `completion` need"
    };
    let fault = Fault::new(format!(
        "{section}.format: {rows} a chat template, the base has none"
    ));
    fault.hint("name a template file with `chat_template`, or use a base that was trained to chat")
}

/// Returns whether rows of a dataset are rendered by a chat template.
pub(super) fn is_rendered(dataset: &Dataset, files: &data_files::Found) -> bool {
    let Some(format) = dataset.format.as_ref().map(|said| said.value) else {
        return false;
    };
    let columns = dataset
        .columns
        .iter()
        .map(|(name, said)| (name.clone(), said.value.clone()))
        .collect();
    data::any_rendered(files.as_deref().unwrap_or_default(), format, &columns)
}

/// Suggests in the fault of a missing format the one that the rows seem to have.
fn propose(section: &str, file: Option<&DataFile>, faults: &mut [Fault]) {
    let missing = format!("missing key `format` in `{section}`");
    let fault = faults.iter_mut().find(|fault| fault.message == missing);
    let (Some(fault), Some(file)) = (fault, file) else {
        return;
    };
    match data::candidates(file) {
        Ok(columns) => {
            let Some((format, names)) = data::detected(&columns) else {
                return;
            };
            let names = if names.is_empty() {
                String::new()
            } else {
                format!(" with `columns: {}`", data::in_recipe(&names))
            };
            fault.hint = Some(format!(
                "the columns of `{}` look like those of `format: {format}`{names}",
                file.path().display()
            ));
        }
        Err(error @ data::TableError::Other { .. }) => {
            fault.hint = error
                .hint()
                .map(|hint| format!("`{}` is no Parquet file: {hint}", file.path().display()));
        }
        Err(_) => {}
    }
}
