//! Reads and compiles a component in a child process; it never loads the compiled code, which `artefacts` does.

use super::engine_config;
use crate::bulk;
use crate::config::Limits;
use crate::confined::{self, Cap, Caps, Confined, Job, Queue, Work};
use crate::error::{Error, Kind, Result};
use crate::interface;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};
use wasmparser::{Parser, Payload};
use wasmtime::{Engine, InstanceAllocationStrategy};

/// The job of the child.
pub const COMPILE: Job = Job { name: "compile", work };

/// Threads that compile one component: fewer than there are cores, and at most this number, since more gain little. Where two
/// idle-priority threads share a core, Linux's scheduler (EEVDF) may continue with the other one, and not with a thread of the
/// server that wakes, for up to 4 ms.
const MOST_THREADS: usize = 8;
/// Bytes of the section `hearth:manifest`.
const MANIFEST_BYTES: usize = 1 << 20;

const CORE_MODULE: [u8; 8] = *b"\0asm\x01\0\0\0";
const COMPONENT: [u8; 8] = *b"\0asm\x0d\0\x01\0";

#[derive(Serialize, Deserialize)]
struct Request {
    component: PathBuf,
    limits: Limits,
}

/// A compiled component.
pub(super) struct Compiled {
    /// wasmtime's serialised form. Only a child of this program that compiled it can have written it.
    pub(super) code: Vec<u8>,
    /// The JSON of its `hearth:manifest` section, or `null`.
    pub(super) manifest: Value,
}

/// Compiles the component in a file, in a child; `folder` holds the file through which the compiled code is passed.
///
/// Errors: `invalid-argument` where it is no component, does not compile, or takes more than `compile_ms` or
/// `compile_memory_bytes`; `too-large` where its manifest or code is.
pub(super) async fn compile(
    confined: &Confined,
    limits: &Limits,
    component: PathBuf,
    folder: &Path,
) -> Result<Compiled> {
    const KEEPING: &str = "compiling a component";
    let output = tempfile::NamedTempFile::new_in(folder).map_err(|error| Error::storage(KEEPING, error))?;
    let output = output.into_temp_path();
    let caps = Caps { reads: vec![component.clone()], ..caps(limits) };
    let request = Request { component, limits: limits.clone() };
    let manifest = confined.run(&COMPILE, &request, Some(&output), caps).await?;
    let code = tokio::fs::read(&output).await.map_err(|error| Error::storage(KEEPING, error))?;
    Ok(Compiled { code, manifest })
}

/// What compiling may take. The caller adds the files that it reads.
pub(super) fn caps(limits: &Limits) -> Caps {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Caps {
        what: "the component's compilation",
        queue: Queue::Heavy,
        wall_ms: Cap { value: limits.compile_ms, limit: "compile_ms" },
        memory_bytes: Cap { value: limits.compile_memory_bytes, limit: "compile_memory_bytes" },
        file_bytes: Cap { value: limits.compiled_bytes, limit: "compiled_bytes" },
        threads: cores.saturating_sub(1).clamp(1, MOST_THREADS),
        reads: Vec::new(),
    }
}

/// wasmtime's settings for compiling: the same code as for the server's engine, but without the pool of instances, whose address
/// space a child does not need.
fn compiler_config(limits: &Limits) -> wasmtime::Config {
    let mut config = engine_config(limits);
    config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
    config
}

fn work(work: &mut Work) -> Result<Value> {
    let Request { component, limits } = work.request()?;
    let wasm = bulk::read(&component).map_err(|error| Error::storage("reading a component", error))?;
    refuse_others(&wasm)?;
    let manifest = survey(&wasm, &limits)?;
    let code = code(&compiler(&limits)?, &wasm)?;
    drop(wasm);
    let most = limits.compiled_bytes;
    if code.len() as u64 > most {
        let message = format!("the component's compiled code has more than {most} bytes (limit compiled_bytes)");
        return Err(Error::too_large(message));
    }
    let mut output = work.output.take().ok_or_else(|| Error::host("compiling a component", "no file to write to"))?;
    bulk::write(&mut output, &code).map_err(|error| Error::storage("keeping compiled code", error))?;
    Ok(manifest)
}

/// The engine with which a child compiles a component, and runs one once.
pub(super) fn compiler(limits: &Limits) -> Result<Engine> {
    Engine::new(&compiler_config(limits))
        .map_err(|error| Error::host("setting up the compiler", interface::causes(&error)))
}

fn refuse_others(wasm: &[u8]) -> Result<()> {
    if wasm.starts_with(&CORE_MODULE) {
        return Err(Error::invalid_argument(
            "this is a core WebAssembly module, not a component; build it with `cargo build --target wasm32-wasip2`, or \
             turn it into a component with `wasm-tools component new`",
        ));
    }
    if !wasm.starts_with(&COMPONENT) {
        let shown: Vec<String> = wasm.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        return Err(Error::invalid_argument(format!(
            "this is no WebAssembly component: it starts with the bytes [{}] instead of [00 61 73 6d 0d 00 01 00]",
            shown.join(" ")
        )));
    }
    Ok(())
}

fn code(engine: &Engine, wasm: &[u8]) -> Result<Vec<u8>> {
    engine.precompile_component(wasm).map_err(|error| {
        let causes = interface::causes(&error);
        // With this message, the child ran out of the memory that it may take.
        if causes.contains("Cannot allocate memory") {
            return confined::out_of_memory(causes);
        }
        Error::invalid_argument(format!("the component does not compile: {causes}"))
    })
}

/// Counts imports and exports at the component's top level, and gives the JSON of the custom section `hearth:manifest`, wherever
/// in the component it is; `null` without one.
fn survey(wasm: &[u8], limits: &Limits) -> Result<Value> {
    let (mut depth, mut outlets, mut manifest) = (0_u32, 0_u64, None);
    for payload in Parser::new(0).parse_all(wasm) {
        // The compiler refuses bytes that do not parse, and gives the reason.
        let Ok(payload) = payload else { break };
        match payload {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => outlets += u64::from(section.count()),
            Payload::ComponentExportSection(section) if depth == 0 => outlets += u64::from(section.count()),
            Payload::CustomSection(section) if section.name() == "hearth:manifest" && manifest.is_none() => {
                if section.data().len() > MANIFEST_BYTES {
                    return Err(Error::new(Kind::TooLarge, "the section hearth:manifest is larger than 1 MiB"));
                }
                manifest = Some(serde_json::from_slice(section.data()).map_err(|error| {
                    let message = format!("the section hearth:manifest is not valid JSON: {error}");
                    Error::invalid_argument(message)
                })?);
            }
            _ => {}
        }
        if outlets > limits.component_exports {
            return Err(Error::invalid_argument(format!(
                "the component has more than {} imports and exports (limit component_exports)",
                limits.component_exports
            )));
        }
    }
    Ok(manifest.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::{DefaultHasher, Hash, Hasher};

    #[test]
    fn what_is_no_component_is_told_apart() {
        let engine = Engine::default();
        let message = |bytes: &[u8]| {
            let compiled = refuse_others(bytes).and_then(|()| code(&engine, bytes));
            compiled.map_or_else(|error| error.message().to_owned(), |_| String::new())
        };
        assert!(message(b"").contains("no WebAssembly component"));
        assert!(message(b"hello").contains("68 65 6c 6c 6f"));
        assert!(message(&CORE_MODULE).contains("core WebAssembly module"));
        assert!(message(&[&COMPONENT[..], &[0xff; 20]].concat()).contains("does not compile"));
        assert_eq!(message(&COMPONENT), "");
    }

    #[test]
    fn a_childs_code_is_what_the_servers_engine_takes() {
        let limits = Limits { concurrent_invocations: 2, ..Limits::default() };
        let hash = |config: &wasmtime::Config| {
            let mut hasher = DefaultHasher::new();
            Engine::new(config).unwrap().precompile_compatibility_hash().hash(&mut hasher);
            hasher.finish()
        };
        assert_eq!(hash(&compiler_config(&limits)), hash(&engine_config(&limits)));
        // The hash depends on the settings; a constant would prove nothing.
        assert_ne!(hash(engine_config(&limits).epoch_interruption(false)), hash(&engine_config(&limits)));
    }

    #[test]
    fn only_what_is_at_the_top_counts() {
        let limits = Limits { component_exports: 2, ..Limits::default() };
        let refused = |text: &str| match survey(&wat::parse_str(text).unwrap(), &limits) {
            Ok(_) => String::new(),
            Err(error) => error.message().to_owned(),
        };
        let import = |name: &str| format!(r#"(import "{name}" (func))"#);
        let (two, three) = (import("a") + &import("b"), import("a") + &import("b") + &import("c"));
        assert_eq!(refused(&format!("(component {two})")), "");
        assert!(refused(&format!("(component {three})")).contains("component_exports"));
        assert_eq!(refused(&format!("(component {two} (component {two}))")), "");
        assert!(refused(&format!("(component (component {two}) {three})")).contains("component_exports"));
        let core = r#"(core module (func (export "a")) (func (export "b")) (func (export "c")))"#;
        assert_eq!(refused(&format!("(component {core} {two})")), "");
    }

    #[test]
    fn the_manifest_is_found_wherever_it_lies() {
        let limits = Limits::default();
        let read = |section: &[u8]| {
            let mut wasm = COMPONENT.to_vec();
            let name = b"hearth:manifest";
            wasm.push(0);
            let mut length = (1 + name.len() + section.len()) as u32;
            // A custom section's length, as LEB128.
            while length > 0x7f {
                wasm.push(length as u8 | 0x80);
                length >>= 7;
            }
            wasm.extend([length as u8, name.len() as u8]);
            wasm.extend(name);
            wasm.extend(section);
            survey(&wasm, &limits)
        };
        assert_eq!(read(br#"{"models":["m"]}"#).unwrap()["models"][0], "m");
        assert_eq!(survey(&COMPONENT, &limits).unwrap(), Value::Null);
        assert_eq!(read(b"{").unwrap_err().kind(), Kind::InvalidArgument);
        assert_eq!(read(&vec![b' '; MANIFEST_BYTES + 1]).unwrap_err().kind(), Kind::TooLarge);
    }
}
