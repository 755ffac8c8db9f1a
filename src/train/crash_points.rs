//! Every point of a save at which a process can die or a disk can fail, one after the other. At
//! each of them the newest whole checkpoint must load.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use burn::tensor::Device;
use tempfile::TempDir;

use super::checkpoint::{Product, RunFolder};
use super::{AdamWConfig, Checkpoint, Start, State};
use crate::adapter::{LoraConfig, Targets, attach};
use crate::files::disk::{Operation, trial};
use crate::files::write_manifest;
use crate::model::{Decoder, Folder};
use crate::report::{Event, JsonLines};
use crate::terms::{ModelDtype, Modules};

const OPTIMIZER: AdamWConfig = AdamWConfig {
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    weight_decay: 0.0,
    loraplus_lr_ratio: 1.0,
};

fn adapter() -> LoraConfig {
    let targets = Targets {
        modules: Modules::Names(vec!["q_proj".into()]),
        ..Targets::all_linear()
    };
    LoraConfig {
        targets,
        init_lora_weights: false,
        ..LoraConfig::all_linear(2, 4.0)
    }
}

/// A run that has saved its first step and is about to save its second.
struct Bench {
    decoder: Decoder,
    home: TempDir,
}

impl Bench {
    fn new() -> Self {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/archs/llama/model");
        let mut decoder = Folder::open(&base)
            .expect("a base")
            .load(ModelDtype::Auto, &Device::flex(), &|_| {})
            .expect("loaded");
        attach(&mut decoder, &adapter(), 1, None).expect("attached");
        let bench = Self {
            decoder,
            home: tempfile::tempdir().expect("a temporary folder"),
        };
        bench.save(&bench.run(), 1).expect("saved");
        bench
    }

    fn run(&self) -> PathBuf {
        self.home.path().join("run")
    }

    /// Saves adapter and checkpoint of a step, and keeps one checkpoint.
    fn save(&self, run: &Path, step: u64) -> Result<(), super::TrainError> {
        fs::create_dir_all(run).expect("made");
        let metrics = JsonLines::open(&run.join(RunFolder::METRICS), 0, &|_: Event| {})?;
        let product = Product::Adapter {
            config: adapter(),
            base: "base".to_owned(),
            beside: Vec::new(),
        };
        let folder = RunFolder {
            path: run.to_owned(),
            product,
            lock: "lock".to_owned(),
            metrics,
            samples: None,
        };
        let optimizer = Start::fresh(OPTIMIZER.into(), &self.decoder).optimizer;
        let state = State {
            step,
            best_step: Some(step),
            ..State::start()
        };
        folder.save_product(&self.decoder)?;
        folder
            .save_checkpoint(&self.decoder, &optimizer, &state, 1)
            .map(drop)
    }

    /// Returns the step from which a run would resume, after everything of its checkpoint was
    /// loaded.
    fn resumes_from(&self, run: &Path) -> Option<u64> {
        let checkpoint = Checkpoint::latest(run, &|_| {}).ok()??;
        checkpoint
            .numbers(&adapter(), &self.decoder.spec.modules())
            .expect("the adapter loads");
        checkpoint
            .restore_product(run)
            .expect("the best adapter is there");
        let start = checkpoint
            .start(OPTIMIZER.into(), &self.decoder)
            .expect("the optimizer loads");
        Some(start.state.step)
    }

    /// Returns the folders that a dying process would leave, one for every point of `work`.
    fn deaths(&self, work: impl FnOnce()) -> Vec<PathBuf> {
        let (run, home, taken) = (
            self.run(),
            self.home.path().to_owned(),
            Rc::new(RefCell::new(Vec::new())),
        );
        let snapshots = Rc::clone(&taken);
        let snapshot = move |_: Operation, _: &Path| {
            let copy = home.join(format!("death-{}", snapshots.borrow().len()));
            copy_folder(&run, &copy);
            snapshots.borrow_mut().push(copy);
            Ok(())
        };
        trial::with(snapshot, work);
        taken.take()
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from)
        .expect("listed")
        .map(|entry| entry.expect("an entry").path())
    {
        let to = to.join(entry.file_name().expect("a name"));
        if entry.is_dir() {
            copy_folder(&entry, &to);
        } else {
            fs::copy(&entry, &to).expect("copied");
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder)
        .expect("listed")
        .map(|entry| entry.expect("an entry").file_name());
    entries
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

#[test]
fn a_process_may_die_at_every_point_of_a_save() {
    let bench = Bench::new();
    let deaths = bench.deaths(|| bench.save(&bench.run(), 2).expect("saved"));
    let steps: Vec<_> = deaths
        .iter()
        .map(|death| bench.resumes_from(death))
        .collect();
    assert!(
        steps.len() > 30,
        "{} points are too few for a save",
        steps.len()
    );
    assert!(
        steps.iter().all(|step| [Some(1), Some(2)].contains(step)),
        "{steps:?}"
    );
    assert_eq!(
        (steps.first(), steps.last()),
        (Some(&Some(1)), Some(&Some(2)))
    );
}

#[test]
fn a_disk_may_fail_at_every_point_of_a_save() {
    let bench = Bench::new();
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        for point in 0.. {
            let run = bench.home.path().join(format!("failure-{kind:?}-{point}"));
            copy_folder(&bench.run(), &run);
            let (reached, failed) = (Cell::new(0), Rc::new(Cell::new(false)));
            let told = Rc::clone(&failed);
            let fail = move |_: Operation, _: &Path| {
                reached.set(reached.get() + 1);
                told.set(told.get() || reached.get() > point);
                if reached.get() == point + 1 {
                    Err(kind.into())
                } else {
                    Ok(())
                }
            };
            let saved = trial::with(fail, || bench.save(&run, 2));
            let left: Vec<_> = [run.clone(), run.join(RunFolder::CHECKPOINTS)]
                .iter()
                .flat_map(|folder| names(folder))
                .collect();
            assert!(
                !left.iter().any(|name| name.starts_with(".rankine")),
                "point {point}: {left:?}"
            );
            let step = bench.resumes_from(&run);
            assert!(
                [Some(1), Some(2)].contains(&step),
                "point {point}: {step:?}"
            );
            if !failed.get() {
                assert_eq!((saved.is_ok(), step), (true, Some(2)));
                break;
            }
        }
    }
}

/// A save is on the disk before it has its name: every file is synced between its last write and
/// its rename.
#[test]
fn nothing_takes_its_name_before_it_is_on_the_disk() {
    let bench = Bench::new();
    let log = Rc::new(RefCell::new(Vec::new()));
    let (told, run) = (Rc::clone(&log), bench.run());
    let note = move |operation: Operation, path: &Path| {
        told.borrow_mut().push((operation, path.to_owned()));
        Ok(())
    };
    trial::with(note, || bench.save(&run, 2).expect("saved"));
    let log = log.take();
    for (index, (operation, path)) in log
        .iter()
        .enumerate()
        .filter(|(_, (operation, _))| *operation == Operation::Write)
    {
        let after = log[index + 1..]
            .iter()
            .filter(|(_, later)| later == path)
            .map(|(operation, _)| *operation);
        let after: Vec<_> = after
            .filter(|operation| *operation != Operation::Write)
            .collect();
        assert_eq!(
            after[..2],
            [Operation::Sync, Operation::Rename],
            "{operation:?} of `{}`",
            path.display()
        );
    }
    let last_rename = log
        .iter()
        .rposition(|(operation, _)| *operation == Operation::Rename)
        .expect("renamed");
    let synced = |(operation, path): &(_, PathBuf)| {
        *operation == Operation::Sync && path.ends_with(RunFolder::CHECKPOINTS)
    };
    assert!(
        log[last_rename..].iter().any(synced),
        "the folder is synced after the checkpoint took its name"
    );
}

/// The negative control: a writer that changes the only checkpoint where it stands is caught by the
/// same sweep.
#[test]
fn a_writer_in_place_is_caught() {
    let bench = Bench::new();
    let other = bench.home.path().join("other");
    bench.save(&other, 2).expect("saved");
    let (from, to) = (
        other.join("checkpoints/step-2"),
        bench.run().join("checkpoints/step-1"),
    );
    let deaths = bench.deaths(|| {
        for file in [
            "state.json",
            "optimizer.safetensors",
            "adapter/adapter_model.safetensors",
        ] {
            let content = fs::read(from.join(file)).expect("read");
            crate::files::write_atomic(&to.join(file), &content).expect("written");
        }
        write_manifest(&to).expect("written");
    });
    let steps: Vec<_> = deaths
        .iter()
        .map(|death| bench.resumes_from(death))
        .collect();
    assert!(steps.contains(&None), "{steps:?}");
}
