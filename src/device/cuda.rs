//! NVIDIA GPUs: what of CUDA is on this machine. burn panics on a thread of its own where the driver is missing, so it is looked for
//! before burn is asked, and so are NVRTC, which compiles the kernels, and the headers that they include.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::libraries;
use super::list::{Found, Kind};
use crate::terms;

/// A part of CUDA that was looked for.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Part {
    /// As a person calls it.
    pub name: &'static str,
    /// Where it lies; `None` where it is missing.
    pub path: Option<PathBuf>,
    /// How to come to it.
    pub advice: &'static str,
}

/// Everything of CUDA that a run asks for.
pub fn parts() -> [Part; 3] {
    let driver = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so" };
    let compiler = if cfg!(windows) { "nvrtc64" } else { "libnvrtc.so" };
    [
        Part {
            name: "the NVIDIA driver (libcuda)",
            path: libraries::find(driver),
            advice: "install NVIDIA's driver; in a container start it with the GPU, such as `docker run --gpus all`",
        },
        Part {
            name: "NVRTC (libnvrtc)",
            path: libraries::find(compiler),
            advice: "install the CUDA toolkit, or add its folder to LD_LIBRARY_PATH",
        },
        Part {
            name: "the CUDA headers (cuda_fp16.h)",
            path: headers(),
            advice: "install the CUDA toolkit, or set CUDA_PATH to it",
        },
    ]
}

/// Looked for where cubecl looks.
fn headers() -> Option<PathBuf> {
    let said = std::env::var_os("CUDA_PATH").map(PathBuf::from);
    let of_system = || Path::new("/usr/bin/nvcc").exists().then(|| PathBuf::from("/usr"));
    let usual =
        || ["/usr/local/cuda", "/opt/cuda"].into_iter().map(PathBuf::from).find(|folder| folder.exists()).or_else(of_system);
    let header = said.or_else(usual)?.join("include/cuda_fp16.h");
    header.exists().then_some(header)
}

/// What `nvidia-smi` is asked for, in this order.
const ASKED: &str = "--query-gpu=index,uuid,name,driver_version,memory.total,memory.free,pci.bus_id";
/// What it is asked for too; one that does not know it answers nothing at all.
const CAPABILITY: &str = ",compute_cap";

/// The GPUs that the driver shows to this process, in the order of its indices. `nvidia-smi` comes with the driver.
pub(super) fn list() -> Vec<Found> {
    let ask = |what: String| {
        let output = Command::new("nvidia-smi").args([&*what, "--format=csv,noheader,nounits"]).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let said = ask(format!("{ASKED}{CAPABILITY}")).or_else(|| ask(ASKED.to_owned())).unwrap_or_default();
    visible(parse(&said), std::env::var("CUDA_VISIBLE_DEVICES").ok().as_deref())
}

/// A GPU with the names by which `CUDA_VISIBLE_DEVICES` may call it.
struct Card {
    index: String,
    uuid: String,
    found: Found,
}

fn parse(said: &str) -> Vec<Card> {
    let card = |line: &str| {
        let fields: Vec<&str> = line.split(", ").map(str::trim).collect();
        let [index, uuid, name, driver, total, free, pci] = *fields.first_chunk()?;
        let capability = fields.get(7).and_then(|number| number.parse::<f32>().ok());
        let mebibytes = |number: &str| number.parse::<u64>().ok().map(|mebibytes| mebibytes << 20);
        let found = Found {
            device: terms::Device::Cuda(0),
            name: name.to_owned(),
            kind: Kind::Discrete,
            api: "CUDA",
            driver: driver.to_owned(),
            bus: Some(pci.to_lowercase()),
            memory_bytes: mebibytes(total),
            free_memory_bytes: mebibytes(free),
            // Products in bfloat16 begin with Ampere, 8.0; of a card that does not tell it is not believed.
            dtypes: match capability {
                Some(capability) if capability >= 8.0 => vec!["float32", "float16", "bfloat16"],
                _ => vec!["float32", "float16"],
            },
            limits: None,
        };
        Some(Card { index: index.to_owned(), uuid: uuid.to_owned(), found })
    };
    said.lines().filter_map(card).collect()
}

/// The GPUs that CUDA sees, numbered as it numbers them: the first name that fits no GPU ends the list
/// (<https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-environment-variables>).
fn visible(cards: Vec<Card>, said: Option<&str>) -> Vec<Found> {
    let is = |card: &Card, name: &str| card.index == name || (name.len() > 4 && card.uuid.starts_with(name));
    let named = |said: &str| -> Vec<Found> {
        let each = said.split(',').map(str::trim).map_while(|name| cards.iter().find(|card| is(card, name)));
        each.map(|card| card.found.clone()).collect()
    };
    let shown = said.map_or_else(|| cards.iter().map(|card| card.found.clone()).collect(), named);
    let numbered = shown.into_iter().enumerate();
    numbered.map(|(index, found)| Found { device: terms::Device::Cuda(index), ..found }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "0, GPU-11aa, NVIDIA T4, 550.54.15, 23034, 22500, 00000000:01:00.0, 7.5\n1, GPU-22bb, NVIDIA H200, 550.54.15, 143771, 143000, 00000000:41:00.0, 9.0\n";

    #[test]
    fn cards_are_numbered_as_cuda_sees_them() {
        let names = |said: Option<&str>| -> Vec<(String, String)> {
            visible(parse(SAID), said).into_iter().map(|found| (found.device.to_string(), found.name)).collect()
        };
        let pair = |device: &str, name: &str| (device.to_owned(), name.to_owned());
        assert_eq!(names(None), [pair("cuda:0", "NVIDIA T4"), pair("cuda:1", "NVIDIA H200")]);
        assert_eq!(names(Some("GPU-22bb,0")), [pair("cuda:0", "NVIDIA H200"), pair("cuda:1", "NVIDIA T4")]);
        assert_eq!(names(Some("1,-1,0")), [pair("cuda:0", "NVIDIA H200")]);
        assert!(names(Some("")).is_empty());
        assert!(parse("Failed to initialize NVML: Driver/library version mismatch\n").is_empty());
        let card = &parse(SAID)[1].found;
        assert_eq!((card.memory_bytes, card.driver.as_str()), (Some(143_771 << 20), "550.54.15"));
        assert!(card.takes(terms::ModelDtype::Bfloat16) && !parse(SAID)[0].found.takes(terms::ModelDtype::Bfloat16));
        let untold = parse(&SAID.replace(", 9.0", ""));
        assert!(untold.len() == 2 && !untold[1].found.takes(terms::ModelDtype::Bfloat16), "an older driver");
        assert_eq!(card.bus.as_deref(), Some("00000000:41:00.0"));
    }
}
