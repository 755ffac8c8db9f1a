//! From a kernel of cubecl to machine code.

use cubecl_core::ir::nvidia::SmArch;
use cubecl_core::prelude::KernelDefinition;
use cubecl_cpp::shared::{CompilationOptions, CppCompiler, CppSupportedFeatures};
use cubecl_cpp::target::Cuda;
use cubecl_environment::backtrace::BackTrace;
use cubecl_runtime::compiler::{CompilationError, Compiler};
use cubecl_runtime::kernel::BufferIOAttr;

use crate::library::{Nvrtc, Version};
use crate::nvptx::ptx_version::PtxVersion;
use crate::{config, kernels};

/// The compiler's target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LlvmTarget {
    /// NVIDIA's GPUs.
    #[default]
    Nvptx,
}

/// The compiler under the name that cubecl-cuda knows.
#[derive(Clone, Debug, Default)]
pub struct PlironCompiler {
    /// Always NVIDIA's GPUs.
    pub target: LlvmTarget,
}

/// What cubecl-cuda says of the device.
#[derive(Clone, Debug, Default)]
pub struct PlironOptions {
    /// The architecture of other GPUs; never there.
    pub arch: Option<std::convert::Infallible>,
    /// The card's compute capability.
    pub sm_arch: Option<SmArch>,
    /// The version of PTX; never there.
    pub ptx_version: Option<PtxVersion>,
    /// Whether scalars are parameters of the kernel. The launch does as this says.
    pub grid_constants: bool,
}

/// A compiled kernel.
#[derive(Clone, Debug)]
pub struct NvptxModule {
    /// What the driver loads: machine code, or PTX of an NVRTC before 11.1.
    pub ptx: Vec<core::ffi::c_char>,
    /// The kernel's name.
    pub entrypoint: String,
    /// Its CUDA C++.
    pub ir: String,
    /// Shared memory that a launch reserves, in bytes.
    pub shared_memory_size: usize,
    /// What the kernel does with each buffer.
    pub io: Vec<BufferIOAttr>,
}

/// What the compiler makes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PlironArtifact {
    /// A kernel for NVIDIA's GPUs.
    NvptxCode(NvptxModule),
}

impl std::fmt::Display for PlironArtifact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self::NvptxCode(module) = self;
        f.write_str(&module.ir)
    }
}

impl Compiler for PlironCompiler {
    type Representation = PlironArtifact;
    type CompilationOptions = PlironOptions;

    fn buffer_io(PlironArtifact::NvptxCode(module): &PlironArtifact) -> Option<Vec<BufferIOAttr>> {
        Some(module.io.clone())
    }

    fn compile(&mut self, kernel: KernelDefinition, options: &PlironOptions) -> Result<PlironArtifact, CompilationError> {
        let nvrtc = config::get().nvrtc.ok_or_else(|| refused("no NVRTC was given to compile kernels with".into()))?;
        let arch = options.sm_arch.ok_or_else(|| refused("the card's compute capability is not known".into()))?;
        let entrypoint = kernel.settings.kernel_name.clone();
        let made = CppCompiler::<Cuda>::default().compile(kernel, &features(nvrtc, arch, options.grid_constants))?;
        let target = target(nvrtc, arch);
        let code = kernels::compiled(nvrtc, &made.source, &nvrtc_options(&target))
            .map_err(|log| refused(format!("NVRTC {} cannot compile `{entrypoint}` for {target}: {log}", nvrtc.version())))?;
        Ok(PlironArtifact::NvptxCode(NvptxModule {
            ptx: code.into_iter().map(|byte| byte.cast_signed()).collect(),
            entrypoint,
            ir: made.source,
            shared_memory_size: made.shared_memory_size,
            io: made.io,
        }))
    }

    fn extension(&self) -> &'static str {
        "cu"
    }

    fn lang_tag(&self) -> &'static str {
        "cuda"
    }
}

fn refused(reason: String) -> CompilationError {
    CompilationError::Generic { reason, backtrace: BackTrace::capture() }
}

/// What CUDA C++ may use on a card: cubecl-cuda's own answers, but for `htanh`, which is in the headers since CUDA 12.8 whatever version
/// this was built with.
fn features(nvrtc: &Nvrtc, arch: SmArch, grid_constants: bool) -> CompilationOptions {
    let capability = arch.version();
    CompilationOptions {
        supports_features: CppSupportedFeatures {
            grid_constants,
            clusters: capability >= 90,
            fast_math: true,
            fast_tanh: capability >= 75 && nvrtc.version() >= Version { major: 12, minor: 8 },
            elect_sync: capability >= 90,
            dp4a: capability >= 61,
        },
        ..CompilationOptions::default()
    }
}

/// The architecture that is compiled for: the card's own, with what only that generation has; as PTX where NVRTC makes no machine code.
fn target(nvrtc: &Nvrtc, arch: SmArch) -> String {
    if nvrtc.makes_machine_code() { arch.target_cpu() } else { format!("compute_{}", arch.version()) }
}

fn nvrtc_options(target: &str) -> Vec<String> {
    let include = config::get().include.iter().map(|folder| format!("--include-path={}", folder.display()));
    [format!("--gpu-architecture={target}"), "-lineinfo".to_owned()].into_iter().chain(include).collect()
}
