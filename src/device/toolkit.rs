//! The parts of CUDA that are needed at run time: NVIDIA's driver, NVRTC, which compiles the
//! kernels, and the headers that kernels include.
//!
//! Each is looked for before burn is asked, because burn would panic on a thread of its own. The
//! versions are compared too: a driver takes no machine code of a newer major version, and an older
//! NVRTC does not know a newer card.

use std::path::{Path, PathBuf};
#[cfg(feature = "cuda")]
use std::sync::OnceLock;

#[cfg(feature = "cuda")]
use cubecl_llvm::{Nvrtc, Version};
use serde::Serialize;

use super::libraries;

/// A part of CUDA and whether it can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ToolkitPart {
    /// The part's common name.
    pub name: &'static str,
    /// The path, where it was found.
    pub path: Option<PathBuf>,
    /// The version of CUDA that it belongs to, or that it supports.
    pub version: Option<String>,
    /// Why it cannot be used.
    pub fault: Option<ToolkitFault>,
}

/// Why a part of CUDA cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{problem}")]
pub struct ToolkitFault {
    /// The problem, with both sides of a mismatch.
    pub problem: String,
    /// The next step for the user.
    pub advice: String,
}

impl ToolkitFault {
    fn new(problem: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            problem: problem.into(),
            advice: advice.into(),
        }
    }
}

impl ToolkitPart {
    fn new(
        name: &'static str,
        found: Result<(PathBuf, Option<String>), (Option<PathBuf>, ToolkitFault)>,
    ) -> Self {
        match found {
            Ok((path, version)) => Self {
                name,
                path: Some(path),
                version,
                fault: None,
            },
            Err((path, fault)) => Self {
                name,
                path,
                version: None,
                fault: Some(fault),
            },
        }
    }
}

/// The headers that kernels include, and the packages that have them.
const HEADERS: [(&str, &str); 3] = [
    (
        "cuda_fp16.h",
        "the package of the CUDA runtime's headers (apt `cuda-cudart-dev-12-8`, conda \
        `cuda-cudart-dev`, pip `nvidia-cuda-runtime-cu12`)",
    ),
    (
        "mma.h",
        "the package of the CUDA runtime's headers (apt `cuda-cudart-dev-12-8`, conda \
        `cuda-cudart-dev`, pip `nvidia-cuda-runtime-cu12`)",
    ),
    (
        "crt/mma.h",
        "the package of CUDA's compiler headers (apt `cuda-crt-12-8`, conda \
        `cuda-crt-dev_linux-64`, pip `nvidia-cuda-nvcc-cu12`)",
    ),
];

const ENTIRE: &str = "install the CUDA toolkit, or set CUDA_PATH to it";

/// Returns the folders of toolkits in search order: those that the environment names, then where
/// installers put them.
fn roots() -> Vec<PathBuf> {
    let named = ["CUDA_PATH", "CUDA_HOME"]
        .into_iter()
        .filter_map(std::env::var_os)
        .filter(|value| !value.is_empty());
    let mut roots: Vec<PathBuf> = named.map(PathBuf::from).collect();
    if roots.is_empty() {
        roots.extend(["/usr/local/cuda", "/opt/cuda", "/usr"].map(PathBuf::from));
    }
    roots
}

/// Returns a toolkit's folders of headers, in the layout of a folder, of conda, or of pip, whose
/// packages lie beside each other.
fn include_folders(root: &Path) -> Vec<PathBuf> {
    let target = format!("targets/{}-linux/include", std::env::consts::ARCH);
    let own = ["include", &target, "include/cccl"].map(|folder| root.join(folder));
    let pip = ["cuda_nvcc", "cuda_cccl"].map(|part| root.join("..").join(part).join("include"));
    let folders = own
        .into_iter()
        .chain(pip.into_iter().filter(|_| root.ends_with("cuda_runtime")));
    folders.filter(|folder| folder.is_dir()).collect()
}

/// Returns the folders in which all headers are found, of the first toolkit that has any.
fn headers(roots: &[PathBuf]) -> Result<Vec<PathBuf>, ToolkitFault> {
    let has = |folders: &[PathBuf], header: &str| {
        folders.iter().any(|folder| folder.join(header).exists())
    };
    let each = roots.iter().map(|root| include_folders(root));
    let Some(folders) = each.into_iter().find(|folders| has(folders, HEADERS[0].0)) else {
        let places: Vec<String> = roots
            .iter()
            .map(|root| format!("`{}`", root.join("include").display()))
            .collect();
        return Err(ToolkitFault::new(
            format!(
                "the CUDA headers (cuda_fp16.h) are not found in {}",
                places.join(", ")
            ),
            ENTIRE,
        ));
    };
    match HEADERS
        .into_iter()
        .find(|(header, _)| !has(&folders, header))
    {
        None => Ok(folders),
        Some((header, package)) => {
            let places: Vec<String> = folders
                .iter()
                .map(|folder| format!("`{}`", folder.display()))
                .collect();
            let problem = format!(
                "the CUDA header {header} is not found in {}",
                places.join(", ")
            );
            Err(ToolkitFault::new(
                problem,
                format!("install {package}, or set CUDA_PATH to a whole toolkit"),
            ))
        }
    }
}

/// Returns the paths of NVRTC, that of a named toolkit first.
#[cfg(feature = "cuda")]
fn compilers(roots: &[PathBuf]) -> Vec<PathBuf> {
    let beginning = if cfg!(windows) {
        "nvrtc64"
    } else {
        "libnvrtc.so"
    };
    let target = format!("targets/{}-linux/lib", std::env::consts::ARCH);
    let of_root = |root: &PathBuf| {
        ["lib64", "lib", "bin", &target, "../cuda_nvrtc/lib"].map(|folder| root.join(folder))
    };
    let mut found = libraries::find_all(roots.iter().flat_map(of_root), beginning);
    found.extend(libraries::find(beginning));
    found
}

/// The driver, NVRTC and headers, opened and checked against each other.
#[cfg(feature = "cuda")]
#[derive(Debug)]
pub(super) struct Toolkit {
    pub nvrtc: Nvrtc,
    pub include: Vec<PathBuf>,
}

#[cfg(feature = "cuda")]
impl Toolkit {
    /// Looks for all parts, once in a process.
    ///
    /// # Errors
    /// The first part that is missing or does not fit.
    pub fn find() -> Result<&'static Self, ToolkitFault> {
        static FOUND: OnceLock<Result<Toolkit, ToolkitFault>> = OnceLock::new();
        let look = || {
            let roots = roots();
            let (_, driver) = driver()?;
            let nvrtc = nvrtc(&roots, driver).map_err(|(_, fault)| fault)?;
            Ok(Self {
                nvrtc,
                include: headers(&roots)?,
            })
        };
        FOUND.get_or_init(look).as_ref().map_err(Clone::clone)
    }

    /// Checks that kernels can be compiled for a card's compute capability, 8.6 given as 86.
    ///
    /// # Errors
    /// NVRTC does not know the card.
    pub fn check(&self, capability: u32, card: &str) -> Result<(), ToolkitFault> {
        let known = self.nvrtc.capabilities().unwrap_or_default();
        if known.is_empty() || known.contains(&capability) {
            return Ok(());
        }
        let as_version = |capability: u32| format!("{}.{}", capability / 10, capability % 10);
        let ends = [known.iter().min(), known.iter().max()]
            .map(|end| as_version(*end.expect("not empty")));
        let problem = format!(
            "NVRTC {} (`{}`) compiles for compute capabilities {} to {}, and {card} has {}",
            self.nvrtc.version(),
            self.nvrtc.path().display(),
            ends[0],
            ends[1],
            as_version(capability)
        );
        let advice = match capability {
            100.. => "install NVRTC of CUDA 12.8 or later, and set CUDA_PATH to its toolkit",
            _ if known.iter().all(|known| *known < capability) => {
                "install a newer CUDA toolkit, and set CUDA_PATH to it"
            }
            _ => {
                "install the CUDA toolkit of an older version, such as 12.8, and set CUDA_PATH to \
                it"
            }
        };
        Err(ToolkitFault::new(problem, advice))
    }
}

#[cfg(feature = "cuda")]
fn driver() -> Result<(PathBuf, Version), ToolkitFault> {
    let beginning = if cfg!(windows) {
        "nvcuda.dll"
    } else {
        "libcuda.so"
    };
    let advice = "install NVIDIA's driver; in a container start it with the GPU, such as `docker \
        run --gpus all`";
    let path = libraries::find(beginning)
        .ok_or_else(|| ToolkitFault::new("the NVIDIA driver (libcuda) is not found", advice))?;
    match cubecl_llvm::driver_version(&path) {
        Ok(version) => Ok((path, version)),
        Err(error) => Err(ToolkitFault::new(
            format!("the NVIDIA driver: {error}"),
            "reinstall NVIDIA's driver; `nvidia-smi` should work first",
        )),
    }
}

/// Returns the first NVRTC whose kernels the driver takes.
#[cfg(feature = "cuda")]
fn nvrtc(roots: &[PathBuf], driver: Version) -> Result<Nvrtc, (Option<PathBuf>, ToolkitFault)> {
    let mut first = None;
    for path in compilers(roots) {
        let loaded = Nvrtc::load(&path)
            .map_err(|error| ToolkitFault::new(format!("NVRTC: {error}"), ENTIRE));
        match loaded.and_then(|nvrtc| fits(nvrtc.version(), &path, driver).map(|()| nvrtc)) {
            Ok(nvrtc) => return Ok(nvrtc),
            Err(fault) => first = first.or(Some((Some(path), fault))),
        }
    }
    let advice = "install the CUDA toolkit, or set CUDA_PATH or LD_LIBRARY_PATH to the folder of \
        libnvrtc";
    Err(first.unwrap_or_else(|| {
        (
            None,
            ToolkitFault::new("NVRTC (libnvrtc) is not found", advice),
        )
    }))
}

/// Checks that an NVRTC fits the driver. Machine code runs on a driver of the same major version or
/// a later one; PTX, which an NVRTC before 11.1 makes, on none older than itself. Source:
/// <https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html>.
#[cfg(feature = "cuda")]
fn fits(nvrtc: Version, path: &Path, driver: Version) -> Result<(), ToolkitFault> {
    let makes_machine_code = nvrtc
        >= Version {
            major: 11,
            minor: 1,
        };
    let is_fit = if makes_machine_code {
        nvrtc.major <= driver.major
    } else {
        nvrtc <= driver
    };
    if is_fit {
        return Ok(());
    }
    let problem = format!(
        "NVRTC {nvrtc} (`{}`) is too new for the driver, which supports CUDA {driver}",
        path.display()
    );
    let advice = format!(
        "update the driver to one of CUDA {}, or install NVRTC of CUDA {} and set CUDA_PATH to its \
        toolkit",
        nvrtc.major, driver.major
    );
    Err(ToolkitFault::new(problem, advice))
}

/// Returns a fault for each GPU of this machine that kernels cannot be compiled for.
pub(super) fn unknown_cards() -> Vec<ToolkitFault> {
    #[cfg(not(feature = "cuda"))]
    return Vec::new();
    #[cfg(feature = "cuda")]
    {
        let Ok(toolkit) = Toolkit::find() else {
            return Vec::new();
        };
        let cards = super::list::cuda_gpus()
            .iter()
            .filter_map(|card| Some((card.capability?, card)));
        cards
            .filter_map(|(capability, card)| toolkit.check(capability, &card.name).err())
            .collect()
    }
}

/// Returns every part of CUDA on this machine; nothing in a build without CUDA.
pub fn parts() -> Vec<ToolkitPart> {
    #[cfg(not(feature = "cuda"))]
    return Vec::new();
    #[cfg(feature = "cuda")]
    {
        let roots = roots();
        let driver = driver();
        let version = driver.as_ref().map_or(
            Version {
                major: u32::MAX,
                minor: 0,
            },
            |(_, version)| *version,
        );
        let compiler = nvrtc(&roots, version)
            .map(|nvrtc| (nvrtc.path().to_owned(), Some(nvrtc.version().to_string())));
        let with_version = |(path, version): (PathBuf, Version)| (path, Some(version.to_string()));
        let first = |folders: Vec<PathBuf>| (folders[0].clone(), None);
        vec![
            ToolkitPart::new(
                "the NVIDIA driver (libcuda)",
                driver.map(with_version).map_err(|fault| (None, fault)),
            ),
            ToolkitPart::new("NVRTC (libnvrtc)", compiler),
            ToolkitPart::new(
                "the CUDA headers",
                headers(&roots).map(first).map_err(|fault| (None, fault)),
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(root: &Path, files: &[&str]) {
        for file in files {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, "").expect("written");
        }
    }

    #[test]
    fn a_header_that_is_missing_is_named_with_its_package() {
        let folder = tempfile::tempdir().expect("a folder");
        let roots = |name: &str| vec![folder.path().join(name)];
        let refused = headers(&roots("nothing")).expect_err("nothing is there");
        assert!(
            refused.problem.contains("cuda_fp16.h") && refused.advice.contains("CUDA_PATH"),
            "{refused:?}"
        );
        touch(
            folder.path(),
            &[
                "whole/include/cuda_fp16.h",
                "whole/include/mma.h",
                "whole/include/crt/mma.h",
            ],
        );
        assert_eq!(
            headers(&roots("whole")).expect("whole"),
            [folder.path().join("whole/include")]
        );
        // As pip has them: the headers of the compiler are a package of their own.
        touch(
            folder.path(),
            &[
                "nvidia/cuda_runtime/include/cuda_fp16.h",
                "nvidia/cuda_runtime/include/mma.h",
            ],
        );
        let refused = headers(&roots("nvidia/cuda_runtime")).expect_err("crt/mma.h is missing");
        assert!(
            refused.problem.contains("crt/mma.h")
                && refused.advice.contains("nvidia-cuda-nvcc-cu12"),
            "{refused:?}"
        );
        touch(folder.path(), &["nvidia/cuda_nvcc/include/crt/mma.h"]);
        assert_eq!(
            headers(&roots("nvidia/cuda_runtime"))
                .expect("side by side")
                .len(),
            2
        );
        // A folder without headers does not hide one that has them.
        let both = vec![folder.path().join("nothing"), folder.path().join("whole")];
        assert_eq!(
            headers(&both).expect("whole"),
            [folder.path().join("whole/include")]
        );
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn a_compiler_that_is_too_new_for_the_driver_is_refused_with_both_versions() {
        let version = |major, minor| Version { major, minor };
        let fit =
            |nvrtc: Version, driver: Version| fits(nvrtc, Path::new("/n/libnvrtc.so.12"), driver);
        for (nvrtc, driver) in [
            ((12, 9), (12, 4)),
            ((12, 0), (12, 4)),
            ((11, 8), (12, 4)),
            ((11, 0), (11, 0)),
            ((11, 1), (11, 0)),
        ] {
            assert_eq!(
                fit(version(nvrtc.0, nvrtc.1), version(driver.0, driver.1)),
                Ok(()),
                "{nvrtc:?} on {driver:?}"
            );
        }
        let refused = fit(version(13, 0), version(12, 8)).expect_err("of the next major version");
        assert_eq!(
            refused.problem,
            "NVRTC 13.0 (`/n/libnvrtc.so.12`) is too new for the driver, which supports CUDA 12.8"
        );
        assert!(
            refused.advice.contains("CUDA 13") && refused.advice.contains("CUDA 12 "),
            "{refused:?}"
        );
        fit(version(11, 0), version(10, 2)).expect_err("PTX of a newer toolkit");
    }
}
