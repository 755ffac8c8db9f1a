//! NVIDIA's GPUs, as `nvidia-smi` lists them and as CUDA numbers them.

use std::path::Path;
use std::process::Command;

use super::list::{DeviceClass, FoundDevice};
use crate::terms;

/// Whether this machine has an NVIDIA GPU, with or without its driver: the kernel shows it on the
/// bus, or WSL hands it in.
pub(super) fn has_card() -> bool {
    let reads = |path: &Path, beginning: &str| {
        std::fs::read_to_string(path).is_ok_and(|text| text.starts_with(beginning))
    };
    // NVIDIA's vendor id, and the class of display controllers.
    let is_card = |device: &Path| {
        reads(&device.join("vendor"), "0x10de") && reads(&device.join("class"), "0x03")
    };
    let on_bus = || {
        Path::new("/sys/bus/pci/devices")
            .read_dir()
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| is_card(&entry.path()))
    };
    Path::new("/proc/driver/nvidia").exists() || on_bus()
}

/// Fields that `nvidia-smi` is asked for, in this order.
const ASKED: &str =
    "--query-gpu=index,uuid,name,driver_version,memory.total,memory.free,pci.bus_id";
/// A further field. An `nvidia-smi` that does not know it answers nothing at all.
const CAPABILITY: &str = ",compute_cap";

/// Lists the GPUs that the driver shows to this process, in the order of its indices. `nvidia-smi`
/// comes with the driver.
pub(super) fn list() -> Vec<FoundDevice> {
    let ask = |what: String| {
        let output = Command::new("nvidia-smi")
            .args([&*what, "--format=csv,noheader,nounits"])
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let said = ask(format!("{ASKED}{CAPABILITY}"))
        .or_else(|| ask(ASKED.to_owned()))
        .unwrap_or_default();
    visible(
        parse(&said),
        std::env::var("CUDA_VISIBLE_DEVICES").ok().as_deref(),
    )
}

/// A GPU with the names by which `CUDA_VISIBLE_DEVICES` may call it.
struct Card {
    index: String,
    uuid: String,
    found: FoundDevice,
}

/// Reads a compute capability: `8.6` gives 86.
fn capability(number: &str) -> Option<u32> {
    let (major, minor) = number.split_once('.')?;
    Some(
        major.parse::<u32>().ok()?.checked_mul(10)?
            + minor.parse::<u32>().ok().filter(|minor| *minor < 10)?,
    )
}

fn parse(said: &str) -> Vec<Card> {
    let card = |line: &str| {
        let fields: Vec<&str> = line.split(", ").map(str::trim).collect();
        let [index, uuid, name, driver, total, free, pci] = *fields.first_chunk()?;
        let capability = fields.get(7).and_then(|number| capability(number));
        let mebibytes = |number: &str| number.parse::<u64>().ok().map(|mebibytes| mebibytes << 20);
        let found = FoundDevice {
            device: terms::Device::Cuda(0),
            name: name.to_owned(),
            kind: DeviceClass::Discrete,
            api: "CUDA",
            driver: driver.to_owned(),
            bus: Some(pci.to_lowercase()),
            memory_bytes: mebibytes(total),
            free_memory_bytes: mebibytes(free),
            // Products in bfloat16 begin with Ampere, 8.0; of a card that does not tell it is not
            // believed.
            dtypes: match capability {
                Some(capability) if capability >= 80 => vec!["float32", "float16", "bfloat16"],
                _ => vec!["float32", "float16"],
            },
            capability,
            limits: None,
        };
        Some(Card {
            index: index.to_owned(),
            uuid: uuid.to_owned(),
            found,
        })
    };
    said.lines().filter_map(card).collect()
}

/// Returns the GPUs that CUDA sees, numbered as it numbers them. The first name that fits no GPU
/// ends the list
/// (<https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-environment-variables>).
fn visible(cards: Vec<Card>, said: Option<&str>) -> Vec<FoundDevice> {
    let is = |card: &Card, name: &str| {
        card.index == name || (name.len() > 4 && card.uuid.starts_with(name))
    };
    let named = |said: &str| -> Vec<FoundDevice> {
        let each = said
            .split(',')
            .map(str::trim)
            .map_while(|name| cards.iter().find(|card| is(card, name)));
        each.map(|card| card.found.clone()).collect()
    };
    let shown = said.map_or_else(
        || cards.iter().map(|card| card.found.clone()).collect(),
        named,
    );
    let numbered = shown.into_iter().enumerate();
    numbered
        .map(|(index, found)| FoundDevice {
            device: terms::Device::Cuda(index),
            ..found
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "0, GPU-11aa, NVIDIA T4, 550.54.15, 23034, 22500, 00000000:01:00.0, 7.5\n1, \
        GPU-22bb, NVIDIA H200, 550.54.15, 143771, 143000, 00000000:41:00.0, 9.0\n";

    #[test]
    fn cards_are_numbered_as_cuda_sees_them() {
        let names = |said: Option<&str>| -> Vec<(String, String)> {
            visible(parse(SAID), said)
                .into_iter()
                .map(|found| (found.device.to_string(), found.name))
                .collect()
        };
        let pair = |device: &str, name: &str| (device.to_owned(), name.to_owned());
        assert_eq!(
            names(None),
            [pair("cuda:0", "NVIDIA T4"), pair("cuda:1", "NVIDIA H200")]
        );
        assert_eq!(
            names(Some("GPU-22bb,0")),
            [pair("cuda:0", "NVIDIA H200"), pair("cuda:1", "NVIDIA T4")]
        );
        assert_eq!(names(Some("1,-1,0")), [pair("cuda:0", "NVIDIA H200")]);
        assert!(names(Some("")).is_empty());
        assert!(parse("Failed to initialize NVML: Driver/library version mismatch\n").is_empty());
        let card = &parse(SAID)[1].found;
        assert_eq!(
            (card.memory_bytes, card.driver.as_str()),
            (Some(143_771 << 20), "550.54.15")
        );
        assert_eq!(
            parse(SAID)
                .iter()
                .map(|card| card.found.capability)
                .collect::<Vec<_>>(),
            [Some(75), Some(90)]
        );
        assert_eq!(
            ["12.0", "[N/A]", "8", "8.66"].map(capability),
            [Some(120), None, None, None]
        );
        assert!(
            card.takes(terms::ModelDtype::Bfloat16)
                && !parse(SAID)[0].found.takes(terms::ModelDtype::Bfloat16)
        );
        let untold = parse(&SAID.replace(", 9.0", ""));
        assert!(
            untold.len() == 2 && !untold[1].found.takes(terms::ModelDtype::Bfloat16),
            "an older driver"
        );
        assert_eq!(card.bus.as_deref(), Some("00000000:41:00.0"));
    }
}
