//! The stated license of a data file: from the file itself, from a README.md, and from license
//! files beside it.

use std::path::{Path, PathBuf};

use parquet::file::metadata::ParquetMetaDataReader;
use serde::{Deserialize, Serialize};

use super::footer::attempt;
use crate::files::license::{License, notice_paths, readme_head};
use crate::files::open_file;

/// Keys of a Parquet file's metadata that state a license.
const KEYS: [&str; 2] = ["license", "licence"];
const README: &str = "README.md";

/// The stated license terms of a data file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// The license, where one is named; locks of older versions spell it otherwise.
    #[serde(alias = "licence")]
    pub license: Option<License>,
    /// The file that names it: the data file itself, or a README.md.
    pub said_in: Option<String>,
    /// Names of license files in the same place.
    pub notices: Vec<String>,
}

/// Looks for terms in the file, then in its folder and the folders above it up to `top`; the
/// nearest statement counts. The file must have been inspected.
pub fn terms(file: &Path, top: &Path) -> Terms {
    let inside: Vec<&Path> = file
        .ancestors()
        .skip(1)
        .take_while(|folder| folder.starts_with(top))
        .collect();
    let beside = file.parent().into_iter().collect();
    let folders: Vec<PathBuf> = if inside.is_empty() { beside } else { inside }
        .into_iter()
        .map(named)
        .collect();
    let own = of_file(file).map(|id| {
        (
            License {
                id,
                name: None,
                link: None,
            },
            last(file),
        )
    });
    let of_readme = || {
        folders
            .iter()
            .find_map(|folder| License::stated(&readme_head(&folder.join(README))))
    };
    let stated = own.or_else(|| Some((of_readme()?, README.to_owned())));
    let (license, said_in) = stated.unzip();
    let notices = folders
        .iter()
        .map(|folder| notice_paths(folder))
        .find(|paths| !paths.is_empty())
        .unwrap_or_default();
    Terms {
        license,
        said_in,
        notices: notices.iter().map(|path| last(path)).collect(),
    }
}

/// Returns a folder that can be opened: `.` for the empty parent of a bare file name.
fn named(folder: &Path) -> PathBuf {
    if folder.as_os_str().is_empty() {
        PathBuf::from(".")
    } else {
        folder.to_owned()
    }
}

fn last(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Returns the license in the file's own metadata.
fn of_file(path: &Path) -> Option<String> {
    let file = open_file(path).ok()?;
    let footer = attempt(|| ParquetMetaDataReader::new().parse_and_finish(&file)).ok()?;
    let pairs = footer.file_metadata().key_value_metadata()?;
    let pair = pairs
        .iter()
        .find(|pair| KEYS.contains(&pair.key.to_lowercase().as_str()))?;
    pair.value
        .as_deref()
        .map(str::trim)
        .filter(|said| !said.is_empty())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_nearest_word_counts_and_nothing_above_the_top() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (top, deep) = (dir.path().join("set"), dir.path().join("set/data"));
        fs::create_dir_all(&deep).expect("made");
        let file = deep.join("a.parquet");
        fs::write(&file, "no Parquet").expect("written");
        fs::write(dir.path().join("LICENSE"), "of something else").expect("written");
        fs::write(dir.path().join(README), "---\nlicense: mit\n---\n").expect("written");
        assert_eq!(terms(&file, &top), Terms::default());
        fs::write(top.join(README), "---\nlicense: cc-by-4.0\n---\n").expect("written");
        fs::write(top.join("LICENSE.txt"), "the license").expect("written");
        let of_set = terms(&file, &top);
        let id = of_set.license.as_ref().map(|license| license.id.as_str());
        assert_eq!(
            (id, &*of_set.notices),
            (Some("cc-by-4.0"), &["LICENSE.txt".to_owned()][..])
        );
        assert_eq!(
            terms(&file, &file),
            Terms::default(),
            "a file that was named itself has only what is beside it"
        );
    }

    #[test]
    fn a_parquet_file_may_say_it_itself() {
        use parquet::file::metadata::KeyValue;
        use parquet::file::properties::WriterProperties;

        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a.parquet");
        let column = arrow::array::StringArray::from(vec!["x"]);
        let batch =
            arrow::array::RecordBatch::try_from_iter([("text", std::sync::Arc::new(column) as _)])
                .expect("a column");
        let pairs = vec![KeyValue::new("License".to_owned(), " CC0-1.0 ".to_owned())];
        let properties = WriterProperties::builder()
            .set_key_value_metadata(Some(pairs))
            .build();
        let file = fs::File::create(&path).expect("made");
        let mut writer =
            parquet::arrow::ArrowWriter::try_new(file, batch.schema(), Some(properties))
                .expect("a writer");
        writer.write(&batch).expect("written");
        writer.close().expect("closed");
        fs::write(dir.path().join(README), "---\nlicense: mit\n---\n").expect("written");
        let said = terms(&path, &path);
        assert_eq!(
            said.license.map(|license| license.id).as_deref(),
            Some("CC0-1.0")
        );
        assert_eq!(said.said_in.as_deref(), Some("a.parquet"));
    }
}
