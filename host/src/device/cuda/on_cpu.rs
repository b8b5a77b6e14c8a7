//! The kernels built by the system's C++ compiler and run on the CPU, as a driver for tests: queues do work as late as events
//! allow, and filled memory reveals reads of unwritten memory and writes beyond the end of a block.

use super::Cuda;
use super::driver::{Driver, Failure, Multiplication, Outcome, Pinned, Stream};
use super::machine_code::MachineCode;
use super::units::{Unit, every};
use crate::config::Limits;
use crate::device::Ledger;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::ffi::{c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

type Kernel = unsafe extern "C" fn(*const c_void, usize, u32) -> c_int;

/// The fill of fresh memory, and of the bytes after every block.
const POISON: u8 = 0xa5;
const BEHIND: usize = 64;

/// A library has one block's state, so one kernel runs at a time in the whole process.
static RUNNING: Mutex<()> = Mutex::new(());

/// The driver.
pub(crate) struct OnCpu {
    state: Mutex<State>,
    /// Whether copies are done as early as events allow, instead of as late.
    eager_copies: bool,
    /// Allocations until one fails, if one is to fail: 1 means the next.
    fail_after: Mutex<Option<u64>>,
    /// Where units are kept as a GPU's are, and the number that were not found there.
    machine_code: Option<MachineCode>,
    compiled: AtomicUsize,
}

#[derive(Default)]
struct State {
    blocks: HashMap<usize, Vec<u64>>,
    lengths: HashMap<usize, usize>,
    pinned: HashMap<usize, Vec<u64>>,
    libraries: Vec<libloading::Library>,
    /// The files of libraries from kept code: the system takes a library for one that is loaded if their files are the same.
    files: Vec<tempfile::NamedTempFile>,
    queues: [VecDeque<Job>; 3],
    events: HashMap<u64, (usize, bool)>,
    next_event: u64,
    launches: usize,
    lost: Option<String>,
}

enum Job {
    Launch(usize, u32, Vec<u8>),
    Fill(u64, u8, u64),
    Copy(usize, usize, usize),
    Record(u64),
    Wait(u64),
}

fn number(stream: Stream) -> usize {
    match stream {
        Stream::Compute => 0,
        Stream::In => 1,
        Stream::Out => 2,
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/kernels-on-cpu")
}

/// Compiles a unit into a library, unless the library exists.
fn built(unit: Unit) -> Result<PathBuf, String> {
    use sha2::{Digest, Sha256};
    const HEADER: &str = include_str!("kernels/on_cpu.h");
    let folder = folder();
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let source = format!("{HEADER}\n{}", unit.source());
    let digest = hex::encode(&Sha256::digest(&source)[..8]);
    let library = folder.join(format!("{}-{digest}.so", unit.name()));
    if library.exists() {
        return Ok(library);
    }
    let own = format!("{}-{digest}-{}-{:?}", unit.name(), std::process::id(), std::thread::current().id());
    let (text, partial) = (folder.join(format!("{own}.cpp")), folder.join(format!("{own}.partial")));
    std::fs::write(&text, source).map_err(|error| error.to_string())?;
    let output = Command::new(compiler())
        .args([
            "-std=c++17",
            "-O1",
            "-fPIC",
            "-shared",
            "-ffp-contract=off",
            "-fno-strict-aliasing",
            "-fvisibility=hidden",
            "-o",
        ])
        .args([&partial, &text])
        .output()
        .map_err(|error| format!("cannot run {}: {error}", compiler()))?;
    let _ = std::fs::remove_file(&text);
    if !output.status.success() {
        return Err(format!("{}: {}", unit.name(), String::from_utf8_lossy(&output.stderr)));
    }
    std::fs::rename(&partial, &library).map_err(|error| error.to_string())?;
    Ok(library)
}

/// Whether there is a C++ compiler.
pub(super) fn has_compiler() -> bool {
    Command::new(compiler()).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Compiles all units, on all cores, once per process.
pub(super) fn build_all() -> Result<(), String> {
    static BUILT: OnceLock<Result<(), String>> = OnceLock::new();
    let build = || {
        let left = Mutex::new(every());
        let work = || {
            let next = || left.lock().pop();
            std::iter::from_fn(next).try_for_each(|unit| built(unit).map(drop))
        };
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            threads.into_iter().try_for_each(|thread| thread.join().unwrap())
        })
    };
    BUILT.get_or_init(build).clone()
}

fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned())
}

impl OnCpu {
    /// The driver. Without a C++ compiler: `None` and a printed line, or a failure where references are required.
    pub(crate) fn where_it_can_be(eager_copies: bool) -> Option<Arc<OnCpu>> {
        if has_compiler() {
            return Some(OnCpu::new(eager_copies));
        }
        assert!(std::env::var_os("HEARTH_REQUIRE_REFERENCES").is_none_or(|value| value != "1"), "no C++ compiler");
        eprintln!("skipped: there is no C++ compiler");
        None
    }

    pub(super) fn new(eager_copies: bool) -> Arc<OnCpu> {
        OnCpu::with(eager_copies, None)
    }

    /// Keeps units as a GPU's are kept, and loads them from there.
    pub(super) fn keeping(machine_code: MachineCode) -> Arc<OnCpu> {
        OnCpu::with(false, Some(machine_code))
    }

    fn with(eager_copies: bool, machine_code: Option<MachineCode>) -> Arc<OnCpu> {
        let (state, fail_after, compiled) = (Mutex::default(), Mutex::default(), AtomicUsize::default());
        Arc::new(OnCpu { state, eager_copies, fail_after, machine_code, compiled })
    }

    /// Units that were not found among the kept ones.
    pub(super) fn compiled(&self) -> usize {
        self.compiled.load(Ordering::Relaxed)
    }

    /// Makes the allocation after `count` others fail, and all later ones, pinned ones included; none with `None`.
    pub(crate) fn fail_after(&self, count: Option<u64>) {
        *self.fail_after.lock() = count.map(|count| count + 1);
    }

    /// Whether an allocation failed since [`OnCpu::fail_after`].
    pub(crate) fn has_failed(&self) -> bool {
        matches!(*self.fail_after.lock(), Some(0))
    }

    fn may_fail(&self) -> Outcome<()> {
        match &mut *self.fail_after.lock() {
            Some(left) if *left <= 1 => {
                *left = 0;
                Err(Failure::OutOfMemory)
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// A device with this driver.
    pub(crate) fn device(self: &Arc<OnCpu>, budget_bytes: u64) -> Arc<Cuda> {
        let (driver, name) = (Arc::clone(self) as Arc<dyn Driver>, "cuda:0 (kernels on the CPU)".to_owned());
        Cuda::with(driver, name, (0, 0), Ledger::new(budget_bytes), Limits::default()).unwrap()
    }

    /// Makes every later call fail, as on a device that fell off its bus.
    pub(super) fn lose(&self, why: &str) {
        self.state.lock().lost = Some(why.to_owned());
    }

    /// The number of kernels that were queued.
    pub(super) fn launches(&self) -> usize {
        self.state.lock().launches
    }

    /// Blocks of device memory and pieces of pinned memory that are allocated.
    pub(crate) fn taken(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.blocks.len(), state.pinned.len())
    }

    fn state(&self) -> Outcome<parking_lot::MutexGuard<'_, State>> {
        let state = self.state.lock();
        match &state.lost {
            Some(why) => Err(Failure::Lost(why.clone())),
            None => Ok(state),
        }
    }

    fn queue(&self, stream: Stream, job: Job) -> Outcome<()> {
        let mut state = self.state()?;
        state.queues[number(stream)].push_back(job);
        self.hurry(&mut state);
        Ok(())
    }

    /// Does the copies that need not wait.
    fn hurry(&self, state: &mut State) {
        for queue in [number(Stream::In), number(Stream::Out)].into_iter().filter(|_| self.eager_copies) {
            while let Some(job) = state.queues[queue].front() {
                let done = |event: &u64| state.events.get(event).is_none_or(|(_, done)| *done);
                if matches!(job, Job::Wait(event) if !done(event)) {
                    break;
                }
                if let Some(job) = state.queues[queue].pop_front() {
                    state.work(job);
                }
            }
        }
    }
}

impl State {
    /// Does the work queued before an event, and the work that it waits for, and nothing else.
    fn reach(&mut self, event: u64) {
        while let Some(&(queue, false)) = self.events.get(&event) {
            let job = self.queues[queue].pop_front().expect("an event that was recorded lies in its queue");
            self.work(job);
        }
    }

    fn work(&mut self, job: Job) {
        match job {
            Job::Record(event) => {
                if let Some((_, done)) = self.events.get_mut(&event) {
                    *done = true;
                }
            }
            Job::Wait(event) => self.reach(event),
            Job::Launch(function, blocks, parameters) => {
                // Aligned like the kernel's struct.
                let mut aligned = vec![0u64; parameters.len().div_ceil(8)];
                bytemuck::cast_slice_mut(&mut aligned)[..parameters.len()].copy_from_slice(&parameters);
                let _one = RUNNING.lock();
                // SAFETY: `function` is the address of a kernel's function in a library that is never unloaded.
                #[allow(unsafe_code)]
                let fits = unsafe {
                    let kernel: Kernel = std::mem::transmute(function);
                    kernel(aligned.as_ptr().cast(), parameters.len(), blocks)
                };
                assert_eq!(fits, 1, "a kernel's parameters are not {} bytes long", parameters.len());
            }
            Job::Fill(address, byte, bytes) => {
                let memory = self.piece(address as usize, bytes as usize);
                // SAFETY: `piece` found it within an allocated block.
                #[allow(unsafe_code)]
                unsafe {
                    std::ptr::write_bytes(memory as *mut u8, byte, bytes as usize);
                }
            }
            Job::Copy(from, to, bytes) => {
                let (from, to) = (self.piece(from, bytes), self.piece(to, bytes));
                // SAFETY: `piece` found both within allocated memory.
                #[allow(unsafe_code)]
                unsafe {
                    std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes);
                }
            }
        }
    }

    /// Asserts that bytes are within allocated memory.
    fn piece(&self, address: usize, bytes: usize) -> usize {
        let within = |start: usize, length: usize| start <= address && address + bytes <= start + length;
        let device = self.lengths.iter().any(|(start, length)| within(*start, *length));
        let pinned = self.pinned.iter().any(|(start, words)| within(*start, words.len() * 8));
        assert!(device || pinned, "a copy of {bytes} bytes leaves its memory");
        address
    }
}

// SAFETY: the methods' contracts are those of the trait; this driver also checks most of them.
#[allow(unsafe_code)]
impl Driver for OnCpu {
    fn allocate(&self, bytes: u64) -> Outcome<u64> {
        let mut state = self.state()?;
        self.may_fail()?;
        let words = (bytes as usize + BEHIND).div_ceil(8) + 32;
        let mut memory = vec![u64::from_ne_bytes([POISON; 8]); words];
        // Aligned like CUDA's.
        let start = (memory.as_mut_ptr().addr()).next_multiple_of(256);
        state.lengths.insert(start, bytes as usize);
        state.blocks.insert(start, memory);
        Ok(start as u64)
    }

    unsafe fn free(&self, address: u64) -> Outcome<()> {
        let mut state = self.state()?;
        let start = address as usize;
        let (memory, length) = (state.blocks.remove(&start), state.lengths.remove(&start));
        let (memory, length) = (memory.expect("it was taken"), length.expect("it was taken"));
        let offset = start - memory.as_ptr().addr();
        let behind = &bytemuck::cast_slice::<u64, u8>(&memory)[offset + length..][..BEHIND];
        assert!(behind.iter().all(|byte| *byte == POISON), "something wrote behind a block of {length} bytes");
        Ok(())
    }

    fn allocate_pinned(&self, bytes: usize) -> Outcome<Pinned> {
        self.may_fail()?;
        let mut memory = vec![u64::from_ne_bytes([POISON; 8]); bytes.div_ceil(8)];
        let address = memory.as_mut_ptr().addr();
        self.state()?.pinned.insert(address, memory);
        Ok(Pinned { address })
    }

    unsafe fn free_pinned(&self, pinned: Pinned) -> Outcome<()> {
        self.state()?.pinned.remove(&pinned.address).expect("it was taken");
        Ok(())
    }

    fn load(&self, unit: Unit) -> Outcome<u64> {
        let failed = |error: std::io::Error| Failure::Failed(error.to_string());
        let (path, file) = match &self.machine_code {
            None => (built(unit).map_err(Failure::Failed)?, None),
            Some(machine_code) => {
                let code = machine_code.of(unit, || {
                    self.compiled.fetch_add(1, Ordering::Relaxed);
                    std::fs::read(built(unit).map_err(Failure::Failed)?).map_err(failed)
                })?;
                let mut file = tempfile::NamedTempFile::new_in(folder()).map_err(failed)?;
                std::io::Write::write_all(&mut file, &code).map_err(failed)?;
                (file.path().to_owned(), Some(file))
            }
        };
        // SAFETY: it was compiled from this repository's kernels, and runs no code when it is loaded.
        let library = unsafe { libloading::Library::new(path) }.map_err(|error| Failure::Failed(error.to_string()))?;
        let mut state = self.state()?;
        state.files.extend(file);
        state.libraries.push(library);
        Ok(state.libraries.len() as u64 - 1)
    }

    fn function(&self, module: u64, name: &str) -> Outcome<u64> {
        let state = self.state()?;
        let library = &state.libraries[module as usize];
        // SAFETY: all functions that these libraries export are kernels.
        let found = unsafe { library.get::<Kernel>(name) };
        found.map(|kernel| *kernel as usize as u64).map_err(|error| Failure::Failed(error.to_string()))
    }

    unsafe fn launch(&self, function: u64, blocks: u32, parameters: &[u8]) -> Outcome<()> {
        assert!(parameters.len() <= 4_096, "CUDA takes parameters of at most 4 KiB");
        self.state()?.launches += 1;
        self.queue(Stream::Compute, Job::Launch(function as usize, blocks, parameters.to_vec()))
    }

    unsafe fn fill(&self, address: u64, byte: u8, bytes: u64) -> Outcome<()> {
        self.queue(Stream::Compute, Job::Fill(address, byte, bytes))
    }

    unsafe fn copy_within(&self, from: u64, to: u64, bytes: u64) -> Outcome<()> {
        self.queue(Stream::Compute, Job::Copy(from as usize, to as usize, bytes as usize))
    }

    unsafe fn copy_in(&self, to: u64, from: usize, bytes: usize) -> Outcome<()> {
        self.queue(Stream::In, Job::Copy(from, to as usize, bytes))
    }

    unsafe fn copy_out(&self, from: u64, to: usize, bytes: usize) -> Outcome<()> {
        self.queue(Stream::Out, Job::Copy(from as usize, to, bytes))
    }

    fn record(&self, stream: Stream) -> Outcome<u64> {
        let mut state = self.state()?;
        state.next_event += 1;
        let event = state.next_event;
        state.events.insert(event, (number(stream), false));
        state.queues[number(stream)].push_back(Job::Record(event));
        self.hurry(&mut state);
        Ok(event)
    }

    fn wait(&self, stream: Stream, event: u64) -> Outcome<()> {
        self.queue(stream, Job::Wait(event))
    }

    fn is_done(&self, event: u64) -> Outcome<bool> {
        Ok(self.state()?.events.get(&event).is_none_or(|(_, done)| *done))
    }

    fn synchronize(&self, event: u64) -> Outcome<()> {
        let mut state = self.state()?;
        state.reach(event);
        self.hurry(&mut state);
        Ok(())
    }

    fn forget(&self, event: u64) {
        // Queues may still hold waits for it, so only finished events are dropped.
        let mut state = self.state.lock();
        if state.events.get(&event).is_some_and(|(_, done)| *done) {
            state.events.remove(&event);
        }
    }

    unsafe fn multiply(&self, _: &Multiplication) -> Outcome<bool> {
        Ok(false)
    }
}
