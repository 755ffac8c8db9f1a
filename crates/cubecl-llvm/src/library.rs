//! NVIDIA's compiler at run time and the driver's version, as far as they are asked for here.
//!
//! Sources: <https://docs.nvidia.com/cuda/nvrtc/index.html>, <https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__VERSION.html>.
#![allow(unsafe_code, reason = "the functions of a C library")]

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::ptr;

use libloading::{Library, Symbol};

/// A library that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The system's loader refuses it, or a function is missing.
    #[error("`{}` cannot be loaded: {source}", path.display())]
    Load {
        /// Where it lies.
        path: PathBuf,
        /// What the loader says.
        source: libloading::Error,
    },
    /// It answers with an error.
    #[error("`{}` does not tell its version: status {status}", path.display())]
    Version {
        /// Where it lies.
        path: PathBuf,
        /// What it answered.
        status: c_int,
    },
}

/// A version of CUDA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 12 of 12.8.
    pub major: u32,
    /// 8 of 12.8.
    pub minor: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

fn load(path: &Path) -> Result<Library, LoadError> {
    // SAFETY: NVIDIA's libraries do nothing at load that the process would have to prepare.
    unsafe { Library::new(path) }.map_err(|source| LoadError::Load { path: path.to_owned(), source })
}

/// The newest CUDA that an installed driver supports, which needs neither a GPU nor a context.
pub fn driver_version(path: &Path) -> Result<Version, LoadError> {
    let library = load(path)?;
    let mut version: c_int = 0;
    // SAFETY: `CUresult cuDriverGetVersion(int*)`; the number outlives the call.
    let status = unsafe {
        let get: Symbol<unsafe extern "C" fn(*mut c_int) -> c_int> =
            library.get(b"cuDriverGetVersion\0").map_err(|source| LoadError::Load { path: path.to_owned(), source })?;
        get(&raw mut version)
    };
    // A driver that was opened stays: unloading one that a device uses would pull it away.
    std::mem::forget(library);
    match u32::try_from(version) {
        Ok(version) if status == 0 => Ok(Version { major: version / 1000, minor: version % 1000 / 10 }),
        _ => Err(LoadError::Version { path: path.to_owned(), status }),
    }
}

type Program = *mut std::ffi::c_void;

/// NVIDIA's compiler of CUDA C++, loaded for good.
#[derive(Debug)]
pub struct Nvrtc {
    path: PathBuf,
    library: Library,
    version: Version,
}

impl Nvrtc {
    /// Loads the compiler from a file.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let library = load(path)?;
        let (mut major, mut minor): (c_int, c_int) = (0, 0);
        // SAFETY: `nvrtcResult nvrtcVersion(int*, int*)`; both numbers outlive the call.
        let status = unsafe {
            let get: Symbol<unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int> =
                library.get(b"nvrtcVersion\0").map_err(|source| LoadError::Load { path: path.to_owned(), source })?;
            get(&raw mut major, &raw mut minor)
        };
        match (status, u32::try_from(major), u32::try_from(minor)) {
            (0, Ok(major), Ok(minor)) => Ok(Self { path: path.to_owned(), library, version: Version { major, minor } }),
            _ => Err(LoadError::Version { path: path.to_owned(), status }),
        }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The toolkit that it is of.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether it makes machine code, as since CUDA 11.1; an older one makes PTX only.
    pub fn makes_machine_code(&self) -> bool {
        self.version >= Version { major: 11, minor: 1 }
    }

    /// The compute capabilities that it compiles for, ascending, 8.6 as 86; nothing where it cannot say, before CUDA 11.2.
    pub fn capabilities(&self) -> Option<Vec<u32>> {
        let mut count: c_int = 0;
        // SAFETY: `nvrtcResult nvrtcGetNumSupportedArchs(int*)` and `nvrtcGetSupportedArchs(int*)`, which fills as many numbers as the
        // first counts.
        let known = unsafe {
            let number: Symbol<unsafe extern "C" fn(*mut c_int) -> c_int> =
                self.library.get(b"nvrtcGetNumSupportedArchs\0").ok()?;
            let list: Symbol<unsafe extern "C" fn(*mut c_int) -> c_int> = self.library.get(b"nvrtcGetSupportedArchs\0").ok()?;
            (number(&raw mut count) == 0).then_some(())?;
            let mut known: Vec<c_int> = vec![0; usize::try_from(count).ok()?];
            (list(known.as_mut_ptr()) == 0).then_some(known)?
        };
        known.into_iter().map(|one| u32::try_from(one).ok()).collect()
    }

    /// Compiles a kernel to machine code, or to PTX where the options name a virtual architecture (`compute_..`).
    ///
    /// # Errors
    /// The compiler's log.
    pub fn compile(&self, source: &str, options: &[String]) -> Result<Vec<u8>, String> {
        let text = |text: &str| CString::new(text).map_err(|_| "a zero byte in a kernel's source or options".to_owned());
        let (source, options) = (text(source)?, options.iter().map(|option| text(option)).collect::<Result<Vec<_>, _>>()?);
        let is_ptx = options.iter().any(|option| option.to_bytes().windows(9).any(|part| part == b"=compute_"));
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        // SAFETY: the functions of nvrtc.h by their signatures; the texts outlive the program, which is destroyed at the end.
        unsafe {
            let mut program: Program = ptr::null_mut();
            let create: Symbol<
                unsafe extern "C" fn(
                    *mut Program,
                    *const c_char,
                    *const c_char,
                    c_int,
                    *const *const c_char,
                    *const *const c_char,
                ) -> c_int,
            > = self.function(b"nvrtcCreateProgram\0")?;
            let status = create(&raw mut program, source.as_ptr(), ptr::null(), 0, ptr::null(), ptr::null());
            if status != 0 {
                return Err(self.words(status));
            }
            let compile: Symbol<unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int> =
                self.function(b"nvrtcCompileProgram\0")?;
            let count = c_int::try_from(options.len()).map_err(|_| "too many options".to_owned())?;
            let made = match compile(program, count, options.as_ptr()) {
                0 if is_ptx => self.output(program, b"nvrtcGetPTXSize\0", b"nvrtcGetPTX\0"),
                0 => self.output(program, b"nvrtcGetCUBINSize\0", b"nvrtcGetCUBIN\0"),
                status => {
                    let log = self.output(program, b"nvrtcGetProgramLogSize\0", b"nvrtcGetProgramLog\0").unwrap_or_default();
                    let log = String::from_utf8_lossy(&log).trim_end_matches(['\0', '\n', ' ']).to_owned();
                    Err(if log.is_empty() { self.words(status) } else { log })
                }
            };
            let destroy: Symbol<unsafe extern "C" fn(*mut Program) -> c_int> = self.function(b"nvrtcDestroyProgram\0")?;
            destroy(&raw mut program);
            made
        }
    }

    /// # Safety
    /// The type is the function's own.
    unsafe fn function<T>(&self, name: &[u8]) -> Result<Symbol<'_, T>, String> {
        // SAFETY: as asked for above.
        unsafe { self.library.get(name) }.map_err(|error| error.to_string())
    }

    /// # Safety
    /// The program lives; the names are those of a size and of what has it.
    unsafe fn output(&self, program: Program, size: &[u8], bytes: &[u8]) -> Result<Vec<u8>, String> {
        // SAFETY: `nvrtcResult nvrtcGet..Size(nvrtcProgram, size_t*)` and `nvrtcGet..(nvrtcProgram, char*)`, which fills that many bytes.
        unsafe {
            let size: Symbol<unsafe extern "C" fn(Program, *mut usize) -> c_int> = self.function(size)?;
            let get: Symbol<unsafe extern "C" fn(Program, *mut c_char) -> c_int> = self.function(bytes)?;
            let mut count = 0;
            let status = size(program, &raw mut count);
            if status != 0 {
                return Err(self.words(status));
            }
            let mut made = vec![0u8; count];
            match get(program, made.as_mut_ptr().cast()) {
                0 => Ok(made),
                status => Err(self.words(status)),
            }
        }
    }

    /// A status in the compiler's words.
    fn words(&self, status: c_int) -> String {
        // SAFETY: `const char* nvrtcGetErrorString(nvrtcResult)`: a text that stays.
        unsafe {
            let name: Result<Symbol<unsafe extern "C" fn(c_int) -> *const c_char>, _> = self.library.get(b"nvrtcGetErrorString\0");
            match name.map(|name| name(status)) {
                Ok(words) if !words.is_null() => CStr::from_ptr(words).to_string_lossy().into_owned(),
                _ => format!("NVRTC's status {status}"),
            }
        }
    }
}
