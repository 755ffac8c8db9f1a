//! Devices by name: one that is not there is refused with what is, and `doctor` tells what there
//! is.

mod support;

use serde_json::Value;
use support::*;

/// More than any machine has.
const BEYOND: &str = "7777";
/// No driver of Vulkan, wherever the tests run.
const NO_VULKAN: (&str, &str) = ("VK_DRIVER_FILES", "no-such-driver.json");

#[test]
fn a_device_that_is_not_there_is_refused_with_what_is() {
    let desk = Desk::new();
    let kinds = [
        ("wgpu", cfg!(feature = "wgpu")),
        ("cuda", cfg!(feature = "cuda")),
    ];
    for (kind, is_built) in kinds {
        let device = format!("{kind}:{BEYOND}");
        let said = if is_built {
            format!("device `{device}`")
        } else {
            format!("device `{device}` is not in this build, which has ")
        };
        for verb in ["check", "plan", "train", "warmup"] {
            let ran = desk.run_with(
                &[verb, "recipe.yaml", &format!("device={device}"), "--force"],
                &[NO_VULKAN],
            );
            ran.says(&device, 69, &[&said, "hint: "]);
        }
        let ran = desk.run_with(&["doctor", "--device", &device], &[NO_VULKAN]);
        ran.says("doctor", 69, &[&said]);
        assert!(ran.stdout.contains("\nauto      cpu"), "{}", ran.stdout);
    }
    desk.run(&["train", "recipe.yaml", "device=gpu"]).says(
        "no device",
        65,
        &["device: expected `auto`, `cpu`, `wgpu` or `cuda`"],
    );
    desk.run(&["doctor", "--device", "gpu"])
        .says("no device", 2, &["expected `auto`, `cpu`"]);
}

#[test]
fn the_doctor_lists_the_cpu_last_and_says_what_auto_takes() {
    let ran = Desk::new().run(&["doctor", "--json"]);
    ran.says("doctor", 0, &[]);
    let said: Value = serde_json::from_str(&ran.stdout).unwrap();
    let devices = said["devices"].as_array().unwrap();
    let cpu = devices.last().unwrap();
    assert_eq!(
        (&cpu["device"], &cpu["proven"], &cpu["kind"]),
        (&"cpu".into(), &true.into(), &"processor".into())
    );
    assert!(
        devices
            .iter()
            .any(|device| device["device"] == said["auto"]["device"]),
        "{said}"
    );
    let adapters = devices
        .iter()
        .filter(|device| device["device"].as_str().unwrap().starts_with("wgpu:"));
    for adapter in adapters {
        assert!(
            adapter["limits"]["max_buffer_bytes"].as_u64().unwrap() > 0,
            "{adapter}"
        );
        assert!(
            adapter["dtypes"]
                .as_array()
                .unwrap()
                .contains(&"float32".into()),
            "{adapter}"
        );
    }
    assert_eq!(
        said["cuda"].as_array().unwrap().len(),
        3,
        "driver, NVRTC and headers: {said}"
    );
}

/// The recipe says `auto`, the lock what that came to.
#[test]
fn the_lock_keeps_what_auto_came_to() {
    let desk = Desk::new();
    desk.run_with(&["train", "recipe.yaml"], &[NO_VULKAN])
        .says("auto", 0, &[]);
    let lock: Value = serde_yaml::from_str(&desk.read_text("run/recipe.lock.yaml")).unwrap();
    assert_eq!(
        (&lock["device"], &lock["recipe"]["device"]),
        (&"cpu".into(), &"cpu".into())
    );
    assert!(lock.get("gpu").is_none());
    assert_eq!(
        lock["recipe"]["training"]["model_dtype"], "float32",
        "as the base is"
    );
}

/// TF32 is what newer NVIDIA GPUs make of float32. It is off unless a recipe asks for it, and
/// refused where there is none.
#[test]
fn tf32_is_off_by_default_and_refused_where_there_is_none() {
    let desk = Desk::new();
    desk.run(&["train", "recipe.yaml", "device=cpu"])
        .says("train", 0, &[]);
    let lock: Value = serde_yaml::from_str(&desk.read_text("run/recipe.lock.yaml")).unwrap();
    assert_eq!(lock["recipe"]["training"]["allow_tf32"], false);
    let plan = desk.run(&["plan", "recipe.yaml", "device=cpu"]).stdout;
    let line = plan
        .lines()
        .find(|line| line.starts_with("training.allow_tf32 "))
        .expect("it is listed");
    assert!(line.ends_with("  false  (default)"), "{line}");

    let said = "allow_tf32: device `cpu` has no TF32, which NVIDIA GPUs of compute capability 8.0 \
        or later have";
    for verb in ["check", "plan", "train", "warmup"] {
        let ran = desk.run(&[
            verb,
            "recipe.yaml",
            "device=cpu",
            "training.allow_tf32=true",
        ]);
        ran.says(
            verb,
            65,
            &[&format!("training.{said}"), "hint: remove `allow_tf32`"],
        );
    }
    let ran = desk.run(&["doctor", "--device", "cpu", "--gradcheck", "--allow-tf32"]);
    ran.says("doctor", 65, &["--allow-tf32: device `cpu` has no TF32"]);
    desk.run(&["train", "recipe.yaml", "training.allow_tf32=maybe"])
        .says("no flag", 65, &["training.allow_tf32: expected"]);
}

#[test]
fn a_warm_up_takes_a_step_and_writes_no_run() {
    let desk = Desk::new();
    let ran = desk.run(&["warmup", "recipe.yaml", "--json"]);
    ran.says("warmup", 0, &[]);
    let said: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(
        said["first_step_seconds"].as_f64().unwrap() > 0.0 && said["device"] == "cpu",
        "{said}"
    );
    assert!(!desk.path("run").exists());
}

/// A type that the device does not compute in is refused before anything is read.
#[test]
fn a_type_that_the_cpu_does_not_take_is_refused() {
    let desk = Desk::new();
    let ran = desk.run(&[
        "train",
        "recipe.yaml",
        "device=cpu",
        "training.model_dtype=float16",
    ]);
    ran.says(
        "train",
        65,
        &[
            "training.model_dtype: `float16` is not for device `cpu`, which takes \
            auto, float32, bfloat16",
        ],
    );
    let bench = [
        "bench",
        "--model",
        "base",
        "--model-dtype",
        "float16",
        "--seq",
        "8",
        "--steps",
        "1",
    ];
    desk.run(&bench).says(
        "bench",
        65,
        &["--model-dtype: `float16` is not for device `cpu`"],
    );
}
