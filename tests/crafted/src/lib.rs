//! Components written by hand in WebAssembly's text format, which no compiler would produce: the ABI of each world is generated
//! from `wit/`, and the core module is free. It never runs a component.

mod bombs;

pub use bombs::{compile_bomb, custom_section, endless_compilation, many_exports};

use std::fmt::Write;
use std::path::Path;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// A component of a world of `wit/` around a core module in text format.
pub fn component(world: &str, module: &str) -> Vec<u8> {
    encode(world, module, false)
}

/// The same for a core module that imports WASI preview 1, with the adapter that makes components from `wasm32-wasip1` programs:
/// it has the imports of a program of `wasm32-wasip2`.
pub fn wasi_handler(items: &str, code: &str) -> Vec<u8> {
    encode("handler", &module(items, code), true)
}

/// The same as [`handler`] with an `init` that does nothing, and a global that prevents a snapshot.
pub fn handler_without_snapshot(items: &str, code: &str) -> Vec<u8> {
    let init = r#"(func (export "init") (result i32) (i32.const 512))"#;
    let global = "(global (mut v128) (v128.const i64x2 0 0))";
    component("handler-with-init", &module(&format!("{init} {global} {items}"), code))
}

fn encode(world: &str, module: &str, wasi: bool) -> Vec<u8> {
    let mut core = wat::parse_str(module).unwrap_or_else(|error| panic!("{error}\n{module}"));
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit")).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    embed_component_metadata(&mut core, &resolve, world, StringEncoding::UTF8).unwrap();
    let mut encoder = ComponentEncoder::default();
    let encoder = encoder.validate(true).module(&core).unwrap();
    if wasi {
        let adapter = wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER;
        encoder.adapter("wasi_snapshot_preview1", adapter).unwrap();
    }
    encoder.encode().unwrap()
}

/// A handler whose body is `code`, with a memory, an allocator that never frees, and `items`. `code` must leave the address of
/// the answer; [`answer`] gives one.
pub fn handler(items: &str, code: &str) -> Vec<u8> {
    component("handler", &module(items, code))
}

/// The core module of [`handler`].
pub fn module(items: &str, code: &str) -> String {
    format!(
        r#"(module
            {items}
            (memory (export "memory") 2)
            (global $free (mut i32) (i32.const 65536))
            (func $allocate (export "cabi_realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32)
                (result i32)
                (local $at i32)
                (local.set $at (i32.and (i32.add (global.get $free) (i32.sub (local.get $align) (i32.const 1)))
                    (i32.xor (i32.sub (local.get $align) (i32.const 1)) (i32.const -1))))
                (global.set $free (i32.add (local.get $at) (local.get $size)))
                (if (i32.gt_u (global.get $free) (i32.mul (memory.size) (i32.const 65536)))
                    (then (drop (memory.grow (i32.add (i32.const 1) (i32.div_u (local.get $size) (i32.const 65536)))))))
                (local.get $at))
            (func (export "handle") (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
                {code}))"#
    )
}

/// Memory that holds `result::ok(response { status: 200, headers: [], body: text })`, and the code that answers with it. Memory
/// below 1024 is free for other uses.
pub fn answer(text: &str) -> (String, &'static str) {
    let body = 2048_u32;
    let mut bytes = vec![0_u8; 24];
    bytes[4..6].copy_from_slice(&200_u16.to_le_bytes());
    bytes[16..20].copy_from_slice(&body.to_le_bytes());
    bytes[20..24].copy_from_slice(&(text.len() as u32).to_le_bytes());
    let data = format!(
        r#"(data (i32.const 1024) "{}") (data (i32.const {body}) "{}")"#,
        escaped(&bytes),
        escaped(text.as_bytes())
    );
    (data, "(i32.const 1024)")
}

/// Bytes as a string of the text format.
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 3);
    for byte in bytes {
        write!(text, "\\{byte:02x}").unwrap();
    }
    text
}
