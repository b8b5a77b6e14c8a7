//! Reads a component's world, imports, exports and requested grants; it never compiles or runs one.

use super::output::{bytes, printable};
use crate::interface::{GrantNames, World};
use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use wasmparser::{Parser, Payload};

/// Most bytes of a manifest that the server accepts.
const MANIFEST_BYTES: usize = 1 << 20;
const MANIFEST: &str = "hearth:manifest";

/// What can be read from a component's bytes.
#[derive(Debug)]
pub(super) struct Facts {
    bytes: usize,
    imports: Vec<String>,
    exports: Vec<String>,
    /// The requested grants in its manifest.
    requested: GrantNames,
    /// The bytes of custom sections by name, including those of nested modules.
    sections: BTreeMap<String, usize>,
}

impl Facts {
    /// Reads and validates a component.
    ///
    /// Errors: anything that is not a component, saying what it is instead.
    pub(super) fn read(wasm: &[u8]) -> Result<Facts> {
        if Parser::is_core_wasm(wasm) {
            bail!(
                "this is a core WebAssembly module, not a component; `hearth build` makes components, and `wasm-tools \
                 component new` turns a module with bindings into one"
            );
        }
        if !Parser::is_component(wasm) {
            let shown: Vec<String> = wasm.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            bail!(
                "this is no WebAssembly component: it starts with the bytes [{}] instead of [00 61 73 6d 0d 00 01 00]",
                shown.join(" ")
            );
        }
        wasmparser::Validator::new()
            .validate_all(wasm)
            .map_err(|error| anyhow!("the component is damaged: {}, at byte {}", error.message(), error.offset()))?;
        let mut facts = Facts {
            bytes: wasm.len(),
            imports: Vec::new(),
            exports: Vec::new(),
            requested: GrantNames::default(),
            sections: BTreeMap::new(),
        };
        let (mut depth, mut has_manifest) = (0_usize, false);
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentImportSection(imports) if depth == 0 => {
                    for import in imports {
                        let import = import?;
                        // Types that the world names are imports too, but a guest cannot call them.
                        if !matches!(import.ty, wasmparser::ComponentTypeRef::Type(_)) {
                            facts.imports.push(import.name.name.to_owned());
                        }
                    }
                }
                Payload::ComponentExportSection(exports) if depth == 0 => {
                    for export in exports {
                        facts.exports.push(export?.name.name.to_owned());
                    }
                }
                Payload::CustomSection(section) => {
                    *facts.sections.entry(section.name().to_owned()).or_default() += section.data().len();
                    if section.name() == MANIFEST && !has_manifest {
                        facts.requested = requested(section.data())?;
                        has_manifest = true;
                    }
                }
                _ => {}
            }
        }
        Ok(facts)
    }

    /// Its world in hearth's contract, or why it has none.
    fn world(&self) -> Result<World, String> {
        let world = World::of_names(self.imports.iter().map(String::as_str), self.exports.iter().map(String::as_str));
        world.map_err(|error| error.message().to_owned())
    }

    /// Whether it exports `init`, which runs once for each deployment.
    pub(super) fn has_init(&self) -> bool {
        self.exports.iter().any(|export| export == "init")
    }

    /// `61.2 KiB, world pure`.
    pub(super) fn summary(&self) -> String {
        let world = match self.world() {
            Ok(world) => format!("world {}", world.as_str()),
            Err(reason) => format!("no world that hearth runs: {reason}"),
        };
        format!("{}, {world}", bytes(self.bytes as u64))
    }

    /// Its requested grants as text: `models magika, ocr; hosts example.org`; empty if there are none.
    pub(super) fn wishes(&self) -> String {
        wishes(&self.requested)
    }

    /// Everything, one row each. `without_snapshot` is why no snapshot can be made of its `init`.
    pub(super) fn rows(&self, without_snapshot: Option<&str>) -> Vec<(&'static str, String)> {
        let or_none = |text: String| if text.is_empty() { "nothing".to_owned() } else { text };
        let world = match self.world() {
            Ok(world) => world.as_str().to_owned(),
            Err(reason) => format!("none that hearth runs: {reason}"),
        };
        let init = match (self.has_init(), without_snapshot) {
            (false, _) => "none".to_owned(),
            (true, None) => {
                "runs once for each deployment; every instance starts from the memory that it leaves".to_owned()
            }
            (true, Some(reason)) => format!("runs in every instance, because no snapshot can be taken: {reason}"),
        };
        let sections = self.sections.iter().map(|(name, size)| format!("{name} ({})", bytes(*size as u64)));
        vec![
            ("kind", "component".to_owned()),
            ("size", bytes(self.bytes as u64)),
            ("world", world),
            ("init", init),
            ("asks for", or_none(self.wishes())),
            ("exports", or_none(self.exports.join("\n"))),
            ("imports", or_none(self.imports.join("\n"))),
            ("sections", or_none(sections.collect::<Vec<_>>().join("\n"))),
        ]
    }

    /// Everything as JSON.
    pub(super) fn json(&self, without_snapshot: Option<&str>) -> Value {
        let world = self.world();
        json!({
            "kind": "component", "bytes": self.bytes, "world": world.as_ref().ok().map(|world| world.as_str()),
            "without_world": world.err(), "init": self.has_init(), "without_snapshot": without_snapshot,
            "grants_requested": self.requested, "imports": self.imports, "exports": self.exports,
            "custom_sections": self.sections,
        })
    }
}

fn requested(manifest: &[u8]) -> Result<GrantNames> {
    if manifest.len() > MANIFEST_BYTES {
        bail!("the section {MANIFEST} has {} bytes; servers take at most 1 MiB", manifest.len());
    }
    let manifest = serde_json::from_slice(manifest);
    let manifest = manifest.with_context(|| format!("the section {MANIFEST} is not valid JSON"))?;
    Ok(GrantNames::of_manifest(&manifest)?)
}

/// Requested or missing grants as text: `models magika, ocr; hosts example.org`.
pub(super) fn wishes(names: &GrantNames) -> String {
    let lists = names.lists().into_iter().filter(|(_, names)| !names.is_empty());
    let words = lists.map(|(kind, names)| format!("{kind} {}", names.iter().cloned().collect::<Vec<_>>().join(", ")));
    printable(&words.collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(text: &str) -> Result<Facts> {
        Facts::read(&wat::parse_str(text).unwrap())
    }

    /// A component that imports instances and exports functions of these names.
    fn component(imports: &[&str], exports: &[&str]) -> Facts {
        let mut text = String::from("(component ");
        for import in imports {
            text.push_str(&format!("(import \"{import}\" (instance)) "));
        }
        text.push_str("(import \"a-type\" (type (sub resource))) ");
        text.push_str(
            "(core module $m (func (export \"f\"))) (core instance $i (instantiate $m)) \
             (func $f (canon lift (core func $i \"f\"))) ",
        );
        for export in exports {
            text.push_str(&format!("(export \"{export}\" (func $f)) "));
        }
        facts(&(text + ")")).unwrap()
    }

    #[test]
    fn imports_and_exports_are_read_and_tell_the_world() {
        let (tensors, http) = ("hearth:inference/tensors@0.2.0", "wasi:http/incoming-handler@0.2.0");
        for (imports, exports, world) in [
            (vec![tensors], vec!["init", "handle"], Ok("handler-with-init")),
            (vec![], vec!["handle"], Ok("pure")),
            (vec![], vec!["preprocess"], Err("and not `postprocess`")),
            (vec![http], vec![], Err("it exports nothing")),
        ] {
            let facts = component(&imports, &exports);
            match (facts.world(), world) {
                (Ok(found), Ok(name)) => assert_eq!(found.as_str(), name),
                (Err(reason), Err(part)) => assert!(reason.contains(part), "{reason}"),
                (found, wanted) => panic!("{exports:?}: {found:?}, not {wanted:?}"),
            }
            assert_eq!((facts.imports, facts.exports), (owned(&imports), owned(&exports)));
        }
    }

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn how_init_runs_is_told() {
        let told = |exports: &[&str], reason: Option<&str>| {
            let rows = component(&[], exports).rows(reason);
            rows.into_iter().find(|(name, _)| *name == "init").unwrap().1
        };
        assert_eq!(told(&["handle"], None), "none");
        assert!(told(&["handle", "init"], None).starts_with("runs once"));
        let without = told(&["handle", "init"], Some("its memory is imported"));
        assert!(
            without.starts_with("runs in every instance") && without.ends_with("its memory is imported"),
            "{without}"
        );
    }

    #[test]
    fn what_is_no_component_is_told_apart() {
        let message = |bytes: &[u8]| Facts::read(bytes).unwrap_err().to_string();
        assert!(message(b"").contains("no WebAssembly component"));
        assert!(message(b"hello").contains("68 65 6c 6c 6f"));
        assert!(message(b"\0asm\x01\0\0\0").contains("hearth build"));
        assert!(message(b"\0asm\x0d\0\x01\0\xff\xff\xff").contains("damaged"));
        let core = "(component (core module (@custom \"hearth:manifest\" \"{\")))";
        assert!(facts(core).unwrap_err().to_string().contains("hearth:manifest"));
    }

    #[test]
    fn a_manifest_is_found_in_a_nested_module() {
        let json = r#"{\"models\":[\"magika\"],\"config\":[]}"#;
        let facts = facts(&format!("(component (core module (@custom \"hearth:manifest\" \"{json}\")))")).unwrap();
        assert_eq!(facts.wishes(), "models magika");
        assert_eq!(facts.sections.keys().collect::<Vec<_>>(), ["hearth:manifest"]);
        assert!(facts.world().is_err());
    }

    #[test]
    fn wishes_are_told_in_words() {
        let manifest = json!({"config": [], "hosts": ["example.org"], "models": ["magika", "ocr"], "later": [1]});
        assert_eq!(
            wishes(&requested(manifest.to_string().as_bytes()).unwrap()),
            "models magika, ocr; hosts example.org"
        );
        assert_eq!(wishes(&GrantNames::default()), "");
        assert!(requested(br#"["models magika"]"#).is_err());
    }
}
