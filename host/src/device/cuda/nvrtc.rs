//! NVRTC, CUDA's run-time compiler, loaded at run time: it compiles kernels' sources for one architecture; it needs no GPU and
//! keeps nothing.

use super::libraries;
use super::units::Unit;
use libloading::Library;
use parking_lot::Mutex;
use std::ffi::{CStr, CString, c_char, c_int};
use std::path::Path;

/// Names of the library in the loader's path, newest first.
const NAMES: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];

/// A program object of NVRTC.
type Program = *mut std::ffi::c_void;
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Content = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;
type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;
type Describe = unsafe extern "C" fn(c_int) -> *const c_char;

/// The loaded library.
pub(super) struct Nvrtc {
    create: Create,
    compile: Compile,
    code_size: Size,
    code: Content,
    log_size: Size,
    log: Content,
    destroy: Destroy,
    describe: Describe,
    version: (i32, i32),
    // Not all versions document compiling as thread-safe, and it uses a whole core anyway.
    one: Mutex<()>,
    _library: Library,
}

/// The result of a compilation.
pub(super) struct Compiled {
    /// Machine code (a cubin).
    pub(super) code: Vec<u8>,
    /// The compiler's remarks: with `verbose`, the resources that each kernel uses.
    pub(super) log: String,
}

/// Options of every compilation. Multiplications and additions are not fused, as on the CPU device; kernels fuse explicitly.
pub(super) const OPTIONS: [&str; 3] = ["--std=c++17", "--fmad=false", "--device-as-default-execution-space"];

impl Nvrtc {
    /// Loads the library at the path `named`, or looks for it in `folder` (in the data folder), in the loader's path and where
    /// CUDA's installation puts it.
    ///
    /// Errors: a message that names what is missing and what to install.
    pub(super) fn load(named: Option<&Path>, folder: Option<&Path>) -> Result<Nvrtc, String> {
        let places = match named {
            Some(path) => vec![path.to_owned()],
            None => libraries::places(folder.as_slice(), &NAMES),
        };
        libraries::first(&places, Nvrtc::open).map_err(|why| {
            format!(
                "the library NVRTC (libnvrtc.so.13 or .12), which compiles kernels, cannot be loaded ({why}); install CUDA's \
                 toolkit or the Python package nvidia-cuda-nvrtc, and name its libnvrtc.so in HEARTH_NVRTC_LIB"
            )
        })
    }

    fn open(path: &Path) -> Result<Nvrtc, String> {
        // SAFETY: NVIDIA's library runs no code of its own when it is loaded.
        #[allow(unsafe_code)]
        let library = unsafe { Library::new(path) }.map_err(|error| error.to_string())?;
        macro_rules! symbol {
            ($name:literal as $type:ty) => {{
                // SAFETY: NVRTC's header declares the function with this signature, in all versions from 11 on.
                #[allow(unsafe_code)]
                let symbol = unsafe { library.get::<$type>($name) };
                *symbol.map_err(|error| error.to_string())?
            }};
        }
        let version: Version = symbol!("nvrtcVersion" as Version);
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both are places for a number.
        #[allow(unsafe_code)]
        let code = unsafe { version(&raw mut major, &raw mut minor) };
        if code != 0 {
            return Err(format!("nvrtcVersion failed with {code}"));
        }
        Ok(Nvrtc {
            create: symbol!("nvrtcCreateProgram" as Create),
            compile: symbol!("nvrtcCompileProgram" as Compile),
            code_size: symbol!("nvrtcGetCUBINSize" as Size),
            code: symbol!("nvrtcGetCUBIN" as Content),
            log_size: symbol!("nvrtcGetProgramLogSize" as Size),
            log: symbol!("nvrtcGetProgramLog" as Content),
            destroy: symbol!("nvrtcDestroyProgram" as Destroy),
            describe: symbol!("nvrtcGetErrorString" as Describe),
            version: (major, minor),
            one: Mutex::new(()),
            _library: library,
        })
    }

    /// Major and minor version.
    pub(super) fn version(&self) -> (i32, i32) {
        self.version
    }

    /// Compiles a unit for an architecture such as 90 (compute capability 9.0).
    ///
    /// Errors: the compiler's log.
    pub(super) fn compile(&self, unit: Unit, architecture: u32, verbose: bool) -> Result<Compiled, String> {
        let _one = self.one.lock();
        let text = |value: String| CString::new(value).map_err(|error| error.to_string());
        let (source, name) = (text(unit.source())?, text(format!("{}.cu", unit.name()))?);
        let mut options = OPTIONS.map(str::to_owned).to_vec();
        options.push(format!("--gpu-architecture=sm_{architecture}"));
        if verbose {
            options.push("--ptxas-options=-v".to_owned());
        }
        let options = options.into_iter().map(text).collect::<Result<Vec<_>, _>>()?;
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let mut program: Program = std::ptr::null_mut();
        let none = std::ptr::null();
        // SAFETY: the strings end with 0 and outlive the call; no headers are given.
        #[allow(unsafe_code)]
        let created = unsafe { (self.create)(&raw mut program, source.as_ptr(), name.as_ptr(), 0, none, none) };
        self.done("nvrtcCreateProgram", created)?;
        // SAFETY: `program` was created; the number of options is correct, and they outlive the call.
        #[allow(unsafe_code)]
        let compiled = unsafe { (self.compile)(program, pointers.len() as c_int, pointers.as_ptr()) };
        let log = self.content(program, self.log_size, self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned();
        let code = match self.done("nvrtcCompileProgram", compiled) {
            Ok(()) => self.content(program, self.code_size, self.code),
            Err(why) => Err(format!("{}: {why}\n{log}", unit.name())),
        };
        // SAFETY: `program` was created and is not used again.
        #[allow(unsafe_code)]
        unsafe {
            (self.destroy)(&raw mut program);
        }
        Ok(Compiled { code: code?, log })
    }

    fn content(&self, program: Program, size: Size, content: Content) -> Result<Vec<u8>, String> {
        let mut length = 0;
        // SAFETY: the program exists; `length` is a place for its number.
        #[allow(unsafe_code)]
        let code = unsafe { size(program, &raw mut length) };
        self.done("reading a size from NVRTC", code)?;
        let mut bytes = vec![0u8; length];
        // SAFETY: the buffer has the length that NVRTC just reported.
        #[allow(unsafe_code)]
        let code = unsafe { content(program, bytes.as_mut_ptr().cast()) };
        self.done("reading from NVRTC", code)?;
        Ok(bytes)
    }

    fn done(&self, what: &str, code: c_int) -> Result<(), String> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: NVRTC returns a constant string for every number.
        #[allow(unsafe_code)]
        let why = unsafe {
            let text = (self.describe)(code);
            if text.is_null() { "unknown".into() } else { CStr::from_ptr(text).to_string_lossy() }
        };
        Err(format!("{what}: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::units::every;
    use super::*;

    /// Registers and spilled bytes of each kernel, parsed from the log, as (kernel, registers, spilled).
    fn usage(log: &str) -> Vec<(String, u64, u64)> {
        let (mut found, mut kernel, mut spilled) = (Vec::new(), String::new(), 0);
        for line in log.lines() {
            let number_before = |words: &str| -> Option<u64> {
                let before = &line[..line.find(words)?];
                before.split_whitespace().last()?.parse().ok()
            };
            if let Some(rest) = line.split("entry function '").nth(1) {
                kernel = rest.split('\'').next().unwrap_or_default().to_owned();
            }
            if let Some(stores) = number_before(" bytes spill stores") {
                spilled = stores;
            }
            if let Some(registers) = number_before(" registers") {
                found.push((kernel.clone(), registers, spilled));
            }
        }
        found
    }

    #[test]
    fn nvrtc_takes_every_kernel_for_two_architectures() {
        let named = std::env::var_os("HEARTH_NVRTC_LIB").map(std::path::PathBuf::from);
        let nvrtc = match Nvrtc::load(named.as_deref(), None) {
            Ok(nvrtc) => nvrtc,
            Err(why) => {
                assert!(std::env::var_os("HEARTH_REQUIRE_REFERENCES").is_none_or(|value| value != "1"), "{why}");
                eprintln!("skipped: {why}");
                return;
            }
        };
        let (major, minor) = nvrtc.version();
        for architecture in [80, 90] {
            let (mut kernels, mut bytes, mut most) = (0, 0, (0, String::new()));
            // For each unit: the kernels that spill, and the most bytes that one of them spills.
            let mut spilling: Vec<String> = Vec::new();
            for unit in every() {
                let compiled = nvrtc.compile(unit, architecture, true).unwrap();
                assert!(compiled.code.starts_with(b"\x7fELF"), "{} gave no machine code", unit.name());
                bytes += compiled.code.len();
                let usage = usage(&compiled.log);
                assert!(!usage.is_empty(), "NVRTC told nothing of the kernels of {}", unit.name());
                kernels += usage.len();
                for (kernel, registers, _) in &usage {
                    if *registers > most.0 {
                        most = (*registers, format!("{}/{kernel}", unit.name()));
                    }
                }
                let spilled = usage.iter().map(|(_, _, spilled)| *spilled).filter(|spilled| *spilled > 0);
                let (count, largest) = (spilled.clone().count(), spilled.max());
                spilling.extend(largest.map(|largest| format!("{} {count} (at most {largest})", unit.name())));
            }
            if spilling.is_empty() {
                spilling.push("none".to_owned());
            }
            let (units, registers, kernel, spilling) = (every().len(), most.0, most.1, spilling.join(", "));
            eprintln!(
                "NVRTC {major}.{minor}, sm_{architecture}: {kernels} kernels of {units} units, {bytes} bytes of code; most \
                 registers {registers} ({kernel}); kernels that spill bytes: {spilling}"
            );
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let why = Nvrtc::load(Some(Path::new("/nowhere/libnvrtc.so")), None).err().unwrap();
        assert!(why.contains("/nowhere/libnvrtc.so") && why.contains("HEARTH_NVRTC_LIB"), "{why}");
    }
}
