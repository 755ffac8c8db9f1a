//! Locates the inputs of a run. A run belongs to the place where it lies: in a project that was
//! copied or moved it reads the files next to it, not those of the folder where it was started.
//! Inputs that are not there are looked for in that folder, and in folders that the user names,
//! where data are found by content.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use glob::{MatchOptions, Pattern};
use serde_json::{Map, Value};

use super::lock::Lock;
use crate::fault::Fault;
use crate::files::hash_file;
use crate::model::is_base;
use crate::plan::PlanError;
use crate::recipe::{Dataset, Recipe, Said};
use crate::train::RunFolder;

const DATA: [&str; 2] = ["datasets", "evaluation_datasets"];
const TEMPLATE: &str = "chat_template";
const INIT_FROM: &str = "init_from";
const REFERENCE: &str = "reference";
const TEACHER: &str = "teacher";
/// Kinds of files in a lock that are looked up one by one, with their names for the user.
const FILES: [(&str, &str); 6] = [
    (DATA[0], "data"),
    (DATA[1], "validation data"),
    (TEMPLATE, "chat template"),
    (INIT_FROM, "adapter to go on from"),
    (REFERENCE, "reference"),
    (TEACHER, "teacher"),
];
/// The most files of a folder that are searched for data.
const MAX_FILES: usize = 100_000;

/// Folders that the user named for inputs.
#[derive(Debug, Default)]
pub struct Named {
    /// The folder of the base.
    pub base: Option<PathBuf>,
    /// A folder in which data, the template and the adapter to continue from are found by content.
    pub data: Option<PathBuf>,
}

/// The locations of a lock's files.
#[derive(Debug, Default)]
pub struct Places {
    /// The folder that the recipe's relative paths are relative to.
    home: PathBuf,
    /// Other folders where they may be, as [`homes`] returns them.
    others: Vec<PathBuf>,
    /// The folder where the run was started.
    started_in: Option<PathBuf>,
    /// Files and folders that are not where their names in the lock lead from `home`, with their
    /// places.
    moved: Vec<(String, PathBuf)>,
    /// The base's folder, if it is not the one in the recipe.
    base: Option<PathBuf>,
    /// Whether something was found by content.
    has_found: bool,
    /// Notes for the user.
    notes: Vec<String>,
}

impl Places {
    /// Locates the inputs of the run in the folder `run`.
    ///
    /// # Errors
    /// An input is not found, or a file of the data folder cannot be read.
    pub fn find(lock: &Lock, run: &Path, named: &Named) -> Result<Self, PlanError> {
        let homes = homes(lock, run);
        let home = home_among(&homes, lock);
        let others = homes.into_iter().filter(|other| *other != home).collect();
        let mut places = Self {
            home,
            others,
            started_in: lock.working_directory(),
            ..Self::default()
        };
        if let Some(started_in) = places
            .started_in
            .clone()
            .filter(|folder| *folder != places.home)
        {
            let shown = started_in.display();
            places.notes.push(if started_in.is_dir() {
                format!(
                    "the run was started in `{shown}` and lies elsewhere now: its files are read \
                    in `{}`",
                    places.home.display()
                )
            } else {
                format!(
                    "`{shown}`, where the run was started, is gone: its files are read in `{}`",
                    places.home.display()
                )
            });
        }
        places.find_base(lock, named.base.as_deref());
        let found = named
            .data
            .as_deref()
            .map(|folder| by_content(folder, &wanted(lock)))
            .transpose()?;
        places.has_found = found.as_ref().is_some_and(|found| !found.is_empty());
        for (kind, words) in FILES {
            for (key, hash) in lock.locked(kind) {
                match found
                    .as_ref()
                    .and_then(|found| found.get(&hash))
                    .filter(|_| !places.has_at_home(&key, &hash))
                {
                    Some(path) => places.take(&key, path.clone(), words),
                    None => places.find_file(&key, words),
                }
            }
        }
        Ok(places)
    }

    /// Returns the folder that relative paths of a run's recipe are relative to.
    pub fn home_of(lock: &Lock, run: &Path) -> PathBuf {
        home_among(&homes(lock, run), lock)
    }

    /// Returns the place of a file or folder in the recipe of the run in `run`, by its name there;
    /// `None` if it is not found.
    pub fn look_up(lock: &Lock, run: &Path, name: &Path) -> Option<PathBuf> {
        let homes = homes(lock, run);
        let home = home_among(&homes, lock);
        let started_in = lock.working_directory();
        let all = [home].into_iter().chain(homes);
        all.map(|home| in_home(&home, name, started_in.as_deref()))
            .find(|path| path.exists())
    }

    /// Returns the folder that the recipe's relative paths are relative to.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Returns the base's folder, if it is not the one in the recipe.
    pub fn base(&self) -> Option<&Path> {
        self.base.as_deref()
    }

    /// Returns notes for the user.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Returns whether some data were found in the folder that was named for data.
    pub fn has_found(&self) -> bool {
        self.has_found
    }

    /// Returns whether data are read from a folder that was named for them, and not from where they
    /// would be anyway.
    pub fn has_data_in(&self, folder: &Path) -> bool {
        let folder = absolute(folder);
        self.moved.iter().any(|(_, path)| path.starts_with(&folder))
    }

    /// Returns whether a file at home is unchanged.
    fn has_at_home(&self, key: &str, hash: &str) -> bool {
        hash_file(&self.at_home(Path::new(key))).is_ok_and(|found| found.to_string() == hash)
    }

    fn find_base(&mut self, lock: &Lock, named: Option<&Path>) {
        let Some(folder) = lock.base_folder() else {
            return;
        };
        let is_of_hub = lock.pinned_base().is_some();
        let found = match named {
            Some(named) => Some(absolute(named)),
            // The cache says where it has the commit.
            None if is_of_hub => None,
            None => self.elsewhere(&folder),
        };
        let Some(found) = found else { return };
        if named.is_none() {
            let gone = self.at_home(&folder);
            self.notes.push(format!(
                "base: `{}` is read, `{}` does not exist",
                found.display(),
                gone.display()
            ));
        }
        self.moved
            .push((folder.to_string_lossy().into_owned(), found.clone()));
        self.base = Some(found);
    }

    /// Looks up a file that is not at home. [`Places::apply`] reports it if it is not found.
    fn find_file(&mut self, key: &str, words: &str) {
        let at_home = self.at_home(Path::new(key));
        if !at_home.exists() {
            if let Some(path) = self.elsewhere(Path::new(key)) {
                self.take(key, path, words);
            }
        } else if at_home != absolute_in(&self.home, Path::new(key)) {
            self.moved.push((key.to_owned(), at_home));
        }
    }

    fn take(&mut self, key: &str, path: PathBuf, words: &str) {
        let at_home = self.at_home(Path::new(key));
        if path != at_home {
            self.notes.push(format!(
                "{words}: `{}` is read in place of `{}`",
                path.display(),
                at_home.display()
            ));
            self.moved.push((key.to_owned(), path));
        }
    }

    /// Returns a path as it would be at home.
    fn at_home(&self, path: &Path) -> PathBuf {
        in_home(&self.home, path, self.started_in.as_deref())
    }

    /// Returns the present place of a path that is not at home.
    fn elsewhere(&self, path: &Path) -> Option<PathBuf> {
        if self.at_home(path).exists() {
            return None;
        }
        let all = self
            .others
            .iter()
            .map(|other| in_home(other, path, self.started_in.as_deref()));
        all.chain([absolute_in(&self.home, path)])
            .find(|path| path.exists())
    }

    /// Puts the locations of a recipe's inputs into the recipe.
    ///
    /// # Errors
    /// Files are not found: all of them are listed.
    pub fn apply(&self, lock: &Lock, recipe: &mut Recipe) -> Result<(), PlanError> {
        recipe.base_folder.clone_from(&self.base);
        if let Some(base) = lock
            .base_folder()
            .filter(|base| self.base.is_none() && base.is_absolute())
        {
            recipe.base_folder =
                Some(self.at_home(&base)).filter(|found| *found != base && is_base(found));
        }
        if let Some(said) = &mut recipe.chat_template {
            self.replace(said, lock, TEMPLATE);
        }
        if let (Some(said), Some((key, _))) = (
            &mut recipe.adapter.init_from,
            lock.locked(INIT_FROM).first(),
        ) {
            let folder = self.moved_to(key).and_then(Path::parent);
            if let Some(folder) = folder {
                folder.clone_into(&mut said.value);
            }
        }
        let objective = &mut recipe.objective;
        for (said, kind) in [
            (&mut objective.reference, REFERENCE),
            (&mut objective.teacher, TEACHER),
        ] {
            let moved = lock.locked(kind).first().and_then(|(key, _)| {
                let folder = self.moved_to(key)?.parent()?;
                Some(folder.display().to_string())
            });
            if let (Some(said), Some(folder)) = (said, moved) {
                said.value = folder;
            }
        }
        let sections = [&mut recipe.datasets, &mut recipe.evaluation.datasets];
        for (kind, datasets) in DATA.iter().zip(sections) {
            let keys: Vec<String> = lock.locked(kind).into_iter().map(|(key, _)| key).collect();
            for dataset in datasets.iter_mut() {
                self.place(dataset, &keys);
            }
        }
        let faults = self.missing(lock, recipe);
        if faults.is_empty() {
            Ok(())
        } else {
            Err(PlanError::Faults { faults })
        }
    }

    /// Returns faults for a base, a template and datasets that are missing entirely.
    fn missing(&self, lock: &Lock, recipe: &Recipe) -> Vec<Fault> {
        let others: Vec<String> = self
            .others
            .iter()
            .map(|folder| format!("`{}`", folder.display()))
            .collect();
        let elsewhere = if others.is_empty() {
            String::new()
        } else {
            format!(", and is not in {} either", others.join(" or "))
        };
        let base = lock
            .base_folder()
            .filter(|_| lock.pinned_base().is_none())
            .map(|base| self.shown(&base.to_string_lossy()));
        let base = base.filter(|base| !is_base(base)).map(|base| {
            let fault = Fault::new(format!(
                "base: `{}` does not exist{elsewhere}",
                base.display()
            ));
            fault.hint("name its folder with `--base DIR`")
        });
        let template = recipe
            .chat_template
            .iter()
            .flat_map(|_| lock.locked(TEMPLATE))
            .map(|(key, _)| (vec![key], FILES[2].1));
        let of = |kind: usize, datasets: &[Dataset]| {
            let keys: Vec<String> = lock
                .locked(FILES[kind].0)
                .into_iter()
                .map(|(key, _)| key)
                .collect();
            let own = |dataset: &Dataset| {
                keys.iter()
                    .filter(|key| dataset.leads_to(key))
                    .cloned()
                    .collect::<Vec<_>>()
            };
            datasets
                .iter()
                .map(|dataset| (own(dataset), FILES[kind].1))
                .collect::<Vec<_>>()
        };
        let data = of(0, &recipe.datasets)
            .into_iter()
            .chain(of(1, &recipe.evaluation.datasets));
        let is_nowhere = |(keys, _): &(Vec<String>, &str)| {
            !keys.is_empty() && !keys.iter().any(|key| self.shown(key).exists())
        };
        let fault = |(keys, words): (Vec<String>, &str)| {
            let fault = Fault::new(format!(
                "{words}: `{}` does not exist{elsewhere}",
                self.shown(&keys[0]).display()
            ));
            fault.hint(
                "name a folder that holds it with `--data DIR`: it is found there by its \
                content, whatever its name",
            )
        };
        base.into_iter()
            .chain(template.chain(data).filter(is_nowhere).map(fault))
            .collect()
    }

    fn replace(&self, said: &mut Said<PathBuf>, lock: &Lock, kind: &str) {
        let key = lock.locked(kind).into_iter().next().map(|(key, _)| key);
        if let Some(path) = key.and_then(|key| self.moved_to(&key).map(Path::to_owned)) {
            said.value = path;
        }
    }

    /// Sets the files of a dataset if one of them is not where its path leads from home.
    fn place(&self, dataset: &mut Dataset, keys: &[String]) {
        let own: Vec<&String> = keys.iter().filter(|key| dataset.leads_to(key)).collect();
        if own.iter().any(|key| self.moved_to(key).is_some()) {
            let there = |key: &String| {
                self.moved_to(key)
                    .map_or_else(|| PathBuf::from(key), Path::to_owned)
            };
            // One that is gone is told where hashes are compared.
            dataset.files = Some(
                own.into_iter()
                    .map(there)
                    .filter(|file| absolute_in(&self.home, file).exists())
                    .collect(),
            );
        }
    }

    /// Returns where a file of a Hub data set was found by content, in a folder that was named for
    /// data.
    pub fn found_by_content(&self, lock: &Lock, path: &Path) -> Option<PathBuf> {
        let path = path.to_string_lossy();
        let is_same = |key: &str| lock.name_in_cache(key) == lock.name_in_cache(&path);
        self.moved
            .iter()
            .find(|(key, _)| is_same(key))
            .map(|(_, found)| found.clone())
    }

    fn moved_to(&self, key: &str) -> Option<&Path> {
        self.moved
            .iter()
            .find(|(moved, _)| moved == key)
            .map(|(_, path)| path.as_path())
    }

    /// Returns the present hashes of the inputs under the names that the lock has for them.
    pub fn renamed(&self, lock: &Lock, hashes: Value) -> Value {
        let Value::Object(kinds) = hashes else {
            return hashes;
        };
        let of_kind = |(kind, files): (String, Value)| {
            let known: Vec<String> = lock.locked(&kind).into_iter().map(|(key, _)| key).collect();
            let files = files.as_object().cloned().unwrap_or_default().into_iter();
            let named: Map<_, _> = files
                .flat_map(|(path, hash)| {
                    self.names(&path, &known)
                        .into_iter()
                        .map(move |name| (name, hash.clone()))
                })
                .collect();
            (kind, Value::Object(named))
        };
        Value::Object(kinds.into_iter().map(of_kind).collect())
    }

    /// Returns the lock's names for a file: usually one, several for copies with the same content.
    fn names(&self, path: &str, known: &[String]) -> Vec<String> {
        let of_file = |(key, to): &(String, PathBuf)| {
            (to == Path::new(path) && known.contains(key)).then(|| key.clone())
        };
        let names: Vec<String> = self.moved.iter().filter_map(of_file).collect();
        if !names.is_empty() {
            return names;
        }
        let in_folder = |(key, to): &(String, PathBuf)| {
            Some(Path::new(key).join(Path::new(path).strip_prefix(to).ok()?))
        };
        let at_home = || {
            Path::new(path)
                .strip_prefix(&self.home)
                .ok()
                .map(|inside| match &self.started_in {
                    Some(started_in)
                        if known
                            .iter()
                            .any(|key| Path::new(key) == started_in.join(inside)) =>
                    {
                        started_in.join(inside)
                    }
                    _ => inside.to_owned(),
                })
        };
        let name = self
            .moved
            .iter()
            .find_map(in_folder)
            .or_else(at_home)
            .unwrap_or_else(|| path.into());
        let same = known.iter().find(|key| tidy(Path::new(key)) == tidy(&name));
        vec![
            same.cloned()
                .unwrap_or_else(|| name.to_string_lossy().into_owned()),
        ]
    }

    /// Returns the full path where a file of the lock is or would be.
    pub fn shown(&self, key: &str) -> PathBuf {
        if let Some(path) = self.moved_to(key) {
            return path.to_owned();
        }
        let in_folder = |(folder, to): &(String, PathBuf)| {
            Some(to.join(Path::new(key).strip_prefix(folder).ok()?))
        };
        self.moved
            .iter()
            .find_map(in_folder)
            .unwrap_or_else(|| self.at_home(Path::new(key)))
    }
}

/// Returns the folders where the run's inputs may be: the one that lies relative to the run as the
/// folder where it was started did, that folder itself, and the current one.
fn homes(lock: &Lock, run: &Path) -> Vec<PathBuf> {
    let here = std::env::current_dir().unwrap_or_default();
    let mut homes = Vec::new();
    if let (Some(started_in), Some(output_dir)) = (lock.working_directory(), lock.output_dir()) {
        let was = absolute_in(&started_in, &output_dir);
        let is_there = |path: &Path| {
            path.canonicalize()
                .is_ok_and(|path| was.canonicalize().is_ok_and(|was| was == path))
        };
        if !is_there(run) {
            let way = way(&was, &started_in);
            homes.extend(
                [absolute(run), run.canonicalize().unwrap_or_default()]
                    .map(|run| tidy(&run.join(&way))),
            );
        }
        homes.push(started_in);
    }
    homes.push(here);
    let mut seen = Vec::new();
    homes.retain(|home| home.is_dir() && !seen.contains(home) && (seen.push(home.clone()), true).1);
    homes
}

/// Returns the first of the folders that contains something that the run read.
fn home_among(homes: &[PathBuf], lock: &Lock) -> PathBuf {
    let (keys, started_in) = (lock.all_locked(), lock.working_directory());
    let is_own = |home: &PathBuf, key: &String| {
        let path = Path::new(key);
        let inside = !path.is_absolute()
            || started_in
                .as_ref()
                .is_some_and(|started_in| path.starts_with(started_in));
        inside && in_home(home, path, started_in.as_deref()).exists()
    };
    let holds = |home: &&PathBuf| keys.iter().any(|key| is_own(home, key));
    let started_in = || homes.iter().find(|home| Some(*home) == started_in.as_ref());
    homes
        .iter()
        .find(holds)
        .or_else(started_in)
        .or(homes.first())
        .cloned()
        .unwrap_or_default()
}

/// Returns a path of the recipe in a home: a relative path from there, and an absolute one if it is
/// below the folder where the run was started.
fn in_home(home: &Path, path: &Path, started_in: Option<&Path>) -> PathBuf {
    match started_in.and_then(|started_in| path.strip_prefix(started_in).ok()) {
        Some(inside) => absolute_in(home, inside),
        None => absolute_in(home, path),
    }
}

/// Returns the relative path from one absolute folder to another.
fn way(from: &Path, to: &Path) -> PathBuf {
    let (from, to) = (tidy(from), tidy(to));
    let shared = from
        .components()
        .zip(to.components())
        .take_while(|(one, other)| one == other)
        .count();
    let up = from.components().skip(shared).map(|_| Component::ParentDir);
    up.chain(to.components().skip(shared)).collect()
}

fn absolute(path: &Path) -> PathBuf {
    absolute_in(&std::env::current_dir().unwrap_or_default(), path)
}

fn absolute_in(folder: &Path, path: &Path) -> PathBuf {
    tidy(&folder.join(path))
}

/// Returns a path without `.`, and without `..` after a name.
fn tidy(path: &Path) -> PathBuf {
    let mut tidy = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir
                if matches!(tidy.components().next_back(), Some(Component::Normal(_))) =>
            {
                tidy.pop();
            }
            Component::ParentDir if tidy.has_root() => {}
            other => tidy.push(other),
        }
    }
    tidy
}

impl Dataset {
    /// Returns whether the dataset's path leads to a file of the lock.
    fn leads_to(&self, key: &str) -> bool {
        self.path
            .as_ref()
            .is_some_and(|path| is_of(&path.value, key))
    }
}

/// Returns whether a dataset's path, which may be a folder or a glob, leads to a file.
fn is_of(path: &str, file: &str) -> bool {
    let (path, file) = (tidy(Path::new(path)), tidy(Path::new(file)));
    let options = MatchOptions {
        require_literal_leading_dot: true,
        require_literal_separator: true,
        ..MatchOptions::default()
    };
    let matches = || {
        Pattern::new(&path.to_string_lossy())
            .is_ok_and(|glob| glob.matches_path_with(&file, options))
    };
    file.starts_with(&path) || matches()
}

/// Returns the hashes of everything that may be found by content, with possible names.
fn wanted(lock: &Lock) -> BTreeMap<String, String> {
    FILES
        .into_iter()
        .flat_map(|(kind, _)| lock.locked(kind))
        .map(|(key, hash)| (hash, name_of(Path::new(&key))))
        .collect()
}

/// Finds files in and below a folder by content. Files with the expected names are tried first, and
/// no more files are read than needed.
fn by_content(
    folder: &Path,
    wanted: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, PathBuf>, PlanError> {
    let mut files = Vec::new();
    walk(&absolute(folder), &mut files);
    files.sort_by_key(|path| {
        (
            !wanted.values().any(|name| *name == name_of(path)),
            path.clone(),
        )
    });
    let mut found = BTreeMap::new();
    for path in files {
        if found.len() == wanted.len() {
            break;
        }
        let hash = hash_file(&path)?.to_string();
        if wanted.contains_key(&hash) {
            found.entry(hash).or_insert(path);
        }
    }
    Ok(found)
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    entries.sort();
    for path in entries {
        match path.metadata() {
            _ if files.len() >= MAX_FILES => return,
            // A run's own folders hold no data.
            Ok(found)
                if found.is_dir() && !path.is_symlink() && !path.join(RunFolder::LOCK).exists() =>
            {
                walk(&path, files);
            }
            Ok(found) if found.is_file() => files.push(path),
            _ => {}
        }
    }
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_back_leads_from_a_copy_as_from_the_original() {
        let home = |run: &str, started_in: &str, now: &str| {
            tidy(&Path::new(now).join(way(Path::new(run), Path::new(started_in))))
        };
        let cases = [
            ("/p/run", "/p", "/q/run", "/q"),
            ("/p/checkpoints/a", "/p", "/q/checkpoints/b", "/q"),
            ("/p/./x/../checkpoints/a/", "/p", "/q/checkpoints/b/", "/q"),
            ("/runs/a", "/p", "/elsewhere/runs/a", "/elsewhere/p"),
            ("/p", "/p/work", "/q", "/q/work"),
            ("/p/run", "/p", "/run", "/"),
        ];
        for (run, started_in, now, expected) in cases {
            assert_eq!(
                home(run, started_in, now),
                Path::new(expected),
                "{run} started in {started_in}, now {now}"
            );
        }
    }

    #[test]
    fn files_of_a_dataset_are_known_by_its_path() {
        for (path, file, expected) in [
            ("rows.parquet", "rows.parquet", true),
            ("./rows.parquet", "rows.parquet", true),
            ("data", "data/deep/rows.parquet", true),
            ("data/", "data/rows.parquet", true),
            ("data/*.parquet", "data/rows.parquet", true),
            ("data/**/*.parquet", "data/deep/rows.parquet", true),
            ("./data/*.parquet", "data/rows.parquet", true),
            ("data", "database/rows.parquet", false),
            ("data/a*.parquet", "data/b.parquet", false),
            ("data/*.parquet", "data/deep/b.parquet", false),
            ("/p/data/*.parquet", "/p/data/b.parquet", true),
        ] {
            assert_eq!(is_of(path, file), expected, "{path}: {file}");
        }
    }
}
