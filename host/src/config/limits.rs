//! The one table of limits: each limit once, with its default, its range and the reason; it never reads the environment.

use crate::error::{Error, Result};

/// One row of the table, for flags, documentation and `/v1/status`.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// The name, as in `--limit NAME=VALUE`; its last word is the unit.
    pub name: &'static str,
    /// The value if nothing else is set.
    pub default: u64,
    /// The smallest value that can be set.
    pub least: u64,
    /// The largest value that can be set.
    pub most: u64,
    /// Whether the settings of a function may lower it for that function's invocations.
    pub per_function: bool,
    /// What it bounds and why the default is what it is.
    pub reason: &'static str,
}

/// Whether a row bounds one invocation: those end in `, function`.
macro_rules! per_function {
    () => {
        false
    };
    (function) => {
        true
    };
}

macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $name:ident = $default:expr, $least:expr, $most:expr $(, $scope:ident)?;)*) => {
        /// The value of every limit. Each field is a row of [`LIMITS`].
        #[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub struct Limits { $($(#[doc = $doc])+ pub $name: u64,)* }

        /// The table.
        pub const LIMITS: &[Limit] = &[$(Limit {
            name: stringify!($name),
            default: $default,
            least: $least,
            most: $most,
            per_function: per_function!($($scope)?),
            reason: concat!($($doc),+),
        },)*];

        impl Default for Limits {
            fn default() -> Limits { Limits { $($name: $default,)* } }
        }

        impl Limits {
            fn field(&mut self, name: &str) -> Option<&mut u64> {
                match name { $(stringify!($name) => Some(&mut self.$name),)* _ => None }
            }

            /// The value of each row, in the table's order.
            pub fn values(&self) -> Vec<(&'static Limit, u64)> {
                LIMITS.iter().zip([$(self.$name),*]).collect()
            }
        }
    };
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

limits! {
    /// Bytes of a request's body to a function. Bodies are copied into the guest's memory, so this must fit there.
    body_bytes = 64 * MIB, 0, 2 * GIB, function;
    /// Bytes of all bodies of requests to functions that are being read or answered, and of their answers that clients have not
    /// taken yet.
    all_bodies_bytes = 4 * GIB, KIB, 1024 * GIB;
    /// Bytes of a function's response body.
    response_bytes = 64 * MIB, 0, 2 * GIB, function;
    /// Header lines that a function may answer with.
    response_headers = 100, 1, 1_000, function;
    /// Bytes of all names and values of those header lines.
    response_header_bytes = 64 * KIB, 64, MIB, function;
    /// Bytes of a JSON body to the control plane.
    json_bytes = MIB, KIB, 64 * MIB;
    /// Bytes of an uploaded component. Interpreters of other languages compiled to Wasm take up to 50 MiB.
    component_bytes = 128 * MIB, KIB, GIB;
    /// Bytes of an uploaded model, all its files together.
    model_bytes = 64 * GIB, KIB, 4096 * GIB;
    /// Files in an uploaded model archive.
    model_files = 10_000, 1, 1_000_000;
    /// Uploads in parts (`/v1/uploads`) that are open at once, of all tenants.
    open_uploads = 100, 0, 100_000;
    /// Bytes of all open uploads together: those that came or were announced. They are in the data folder until the model is
    /// stored; while it is stored, they take the space twice.
    open_uploads_bytes = 256 * GIB, KIB, 4096 * GIB;
    /// Milliseconds after which an upload that receives nothing is removed. The default spans a night, so that an upload can
    /// continue in the morning.
    upload_idle_ms = 24 * 3_600_000, 1_000, 90 * 24 * 3_600_000;
    /// Bytes of one asset that a guest reads in one call.
    asset_bytes = 64 * MIB, KIB, 2 * GIB, function;
    /// Bytes of a name: of a function, model, alias, configuration key or secret. Names are parts of URLs and metrics.
    name_bytes = 64, 1, 128;
    /// Milliseconds of one invocation, including its waits for models.
    invocation_ms = 30_000, 1, 3_600_000, function;
    /// Milliseconds between two points at which a running guest yields to others.
    yield_ms = 2, 1, 1_000;
    /// Invocations that run at once. Each holds a slot of the instance pool.
    concurrent_invocations = 256, 1, 10_000;
    /// Invocations that wait for a slot; more are refused as overloaded.
    queued_invocations = 1_024, 0, 1_000_000;
    /// Invocations of one function that run at once; more wait for their turn. By default the pool alone bounds them.
    function_concurrency = 10_000, 1, 10_000, function;
    /// Invocations of one function that wait for their turn; more are refused as overloaded.
    function_queue = 1_024, 0, 1_000_000, function;
    /// Bytes of a guest's linear memory, all of them in an instance together.
    guest_memory_bytes = 512 * MIB, 64 * KIB, 4 * GIB, function;
    /// Linear memories of an instance. A component of several modules has one for each.
    guest_memories = 8, 1, 64;
    /// Elements of one table of an instance. Tables hold function references; programs of 50 MiB have some ten thousand.
    guest_table_elements = 100_000, 1_000, 10_000_000, function;
    /// Core modules' instances within a component's instance.
    guest_core_instances = 64, 1, 1_000;
    /// Bytes of the stack of a guest's calls. Deeper recursion traps.
    guest_stack_bytes = MIB, 64 * KIB, 8 * MIB;
    /// Bytes of the lists and strings of one call of a guest, which the host copies.
    hostcall_bytes = 128 * MIB, MIB, 2 * GIB, function;
    /// Bytes of log lines of one invocation; later lines are dropped and counted.
    log_bytes = 64 * KIB, 0, 64 * MIB, function;
    /// Log lines kept for each function, the newest ones.
    log_lines = 1_000, 1, 100_000;
    /// Bytes of the log lines kept for each function, as JSON; the oldest are dropped first. One line has a quarter of them at
    /// most.
    function_log_bytes = MIB, 16 * KIB, GIB;
    /// Clients that follow functions' logs at once. Each can hold a connection for any time.
    log_followers = 100, 0, 100_000;
    /// Clients that read functions' logs at once without following them. Each may take `function_log_bytes` of memory.
    log_readers = 100, 1, 100_000;
    /// Bytes of all tensors of one invocation that are alive at once. Views of the same bytes count once.
    tensor_bytes = GIB, KIB, 1024 * GIB, function;
    /// Tensors of one invocation that are alive at once.
    tensor_count = 10_000, 1, 1_000_000, function;
    /// Handles of one instance on tensors, models, runs and WASI resources.
    handles = 20_000, 10, 1_000_000, function;
    /// Bytes that the first half of a pipeline may pass to the second, besides tensors.
    pipeline_state_bytes = MIB, 0, 64 * MIB, function;
    /// Dimensions of a tensor.
    tensor_rank = 8, 1, 32;
    /// Arithmetic operations of one operator call, as its cost rule counts them: some 20 s on one core.
    operator_operations = 20_000_000_000, 1_000, u64::MAX, function;
    /// Pixels of an image that `decode-image` takes: a 100-megapixel scan is 300 MB of tensor.
    image_pixels = 100_000_000, 1, 10_000_000_000, function;
    /// Model runs of one invocation.
    model_runs = 10_000, 1, 1_000_000_000, function;
    /// Submitted runs of one invocation that are not over. It may run several models at the same time, but not fill their queues.
    submitted_runs = 16, 1, 10_000, function;
    /// Milliseconds that loading a model waits for room on the device while the models that could be evicted are in use.
    room_wait_ms = 10_000, 0, 3_600_000;
    /// Model runs waiting for one model at once; more are refused as overloaded.
    queued_model_runs = 1_024, 1, 1_000_000;
    /// Bytes of the device's memory for tensors and model runs of all tenants together: host memory on the CPU device; on a GPU
    /// at most what is free there.
    device_bytes = 8 * GIB, MIB, 4096 * GIB;
    /// Bytes of a model's weights up to which onnxruntime makes packed copies of them in private memory. Matrix products with few
    /// rows then run up to twice as fast, but each gigabyte adds a second to every load. Larger models run from the file, which
    /// is mapped and shared.
    packed_model_bytes = 256 * MIB, 0, 4096 * GIB;
    /// Bytes on disk of the prepared forms of models, from which they are loaded again in milliseconds. The least recently used
    /// are deleted first. 0 keeps none.
    model_snapshot_bytes = 64 * GIB, 0, 4096 * GIB;
    /// Bytes of prepared forms that are read into host memory ahead of their load: of models that wait for room on the device,
    /// and of models that a called function may open. 0 reads nothing ahead.
    staged_bytes = 16 * GIB, 0, 4096 * GIB;
    /// Sessions of one model with convolutions on a GPU. They share the weights. Each is planned for the shapes of its last run,
    /// and planning takes far longer than a run.
    model_plans = 16, 1, 256;
    /// Bytes of pinned host memory through which tensors are copied to a GPU and back.
    staging_bytes = 64 * MIB, MIB, 64 * GIB;
    /// Milliseconds that a server waits for running requests when it shuts down.
    shutdown_ms = 10_000, 0, 600_000;
    /// Milliseconds that a client may take between two parts of a body, its own or an answer's.
    body_idle_ms = 30_000, 100, 3_600_000;
    /// Grants, configuration keys and secrets of one function, together. Its manifest may ask for as many.
    settings_entries = 256, 1, 10_000;
    /// Bytes of one value of a function's configuration or of one of its secrets. Certificates and keys take some KiB.
    setting_bytes = 64 * KIB, 16, MIB;
    /// Milliseconds that a connection may be open without a byte in either direction while no request on it is being answered,
    /// and that the head of a request may take.
    connection_idle_ms = 30_000, 100, 3_600_000;
    /// Connections of clients that are open at once.
    connections = 10_000, 1, 1_000_000;
    /// Child processes that compile components and run their `init` at once; more wait. Each may take several cores and the
    /// memory that `compile_memory_bytes` allows.
    confined_processes = 4, 1, 1_000;
    /// Child processes that check models at once; more wait. Each may take the memory that `check_memory_bytes` allows and run
    /// for minutes, so they do not count as `confined_processes`.
    checking_processes = 2, 1, 1_000;
    /// Uploads that wait for a child process of one kind; more are refused as overloaded.
    queued_processes = 64, 0, 1_000_000;
    /// Milliseconds that compiling a component may take. A compiler cannot be interrupted, so its process is killed.
    compile_ms = 60_000, 10, 3_600_000;
    /// Bytes of memory of the process that compiles a component; a function of a few KB can make a compiler ask for any amount.
    compile_memory_bytes = 2 * GIB, 64 * MIB, 1024 * GIB;
    /// Bytes of a component's compiled code, which the server loads into its memory.
    compiled_bytes = GIB, MIB, 16 * GIB;
    /// Imports and exports of a component at its top level. Each is checked and linked; a WASI program has some fifty.
    component_exports = 1_000, 1, 100_000;
    /// Milliseconds that the first load of a model and its runs may take on one engine; reading weights of tens of GB from a disk
    /// takes minutes.
    check_ms = 600_000, 10, 24 * 3_600_000;
    /// Bytes of memory of the process that first loads and runs a model: its weights, some of them twice while they are
    /// rearranged, and the memory of its runs.
    check_memory_bytes = 32 * GIB, 64 * MIB, 4096 * GIB;
    /// Milliseconds, for each engine, after which the check of a model starts no further run on generated inputs once one run has
    /// succeeded. Most models finish all runs in this time.
    check_runs_ms = 2_000, 0, 3_600_000;
    /// Bytes of outputs of one engine that the check of a model keeps and compares; larger ones are not compared.
    check_output_bytes = 64 * MIB, 0, GIB;
    /// Samples that come with a model. Each is run on each engine.
    samples = 100, 0, 10_000;
    /// Bytes of all files below `samples/` of a model.
    sample_bytes = 64 * MIB, 0, GIB;
    /// Milliseconds that unpacking an archive may take, including the time in which the client sends it.
    unpack_ms = 3_600_000, 10, 7 * 24 * 3_600_000;
    /// Bytes of memory of the process that unpacks an archive, whose data passes through in parts of 128 KiB.
    unpack_memory_bytes = 256 * MIB, 64 * MIB, 16 * GIB;
    /// Child processes that unpack archives at once; more wait. Slow clients hold them for long, so there are more of them.
    unpacking_processes = 16, 1, 1_000;
}

impl Limits {
    /// Splits `name=value`, without checking it against the table. Values may end in KiB, MiB or GiB; `-` in names is `_`.
    ///
    /// Errors: `invalid-argument` where it is not of this form.
    pub fn parse(assignment: &str) -> Result<(String, u64)> {
        let (name, text) = assignment
            .split_once('=')
            .ok_or_else(|| Error::invalid_argument(format!("limit '{assignment}' is not NAME=VALUE")))?;
        let name = name.trim().replace('-', "_");
        let value = number(text.trim()).ok_or_else(|| {
            Error::invalid_argument(format!("limit {name}: '{text}' is no number (try 1000, 64KiB, 1GiB)"))
        })?;
        Ok((name, value))
    }

    /// Sets one limit from `name=value`. Values may end in KiB, MiB or GiB.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let (name, value) = Limits::parse(assignment)?;
        self.set_value(&name, value)
    }

    /// Sets one limit by name.
    pub fn set_value(&mut self, name: &str, value: u64) -> Result<()> {
        let Some(row) = LIMITS.iter().find(|row| row.name == name) else {
            let names: Vec<_> = LIMITS.iter().map(|row| row.name).collect();
            return Err(Error::invalid_argument(format!(
                "no limit is called '{name}'; there are {}",
                names.join(", ")
            )));
        };
        if value < row.least || value > row.most {
            let message = format!("limit {name} is {value}, but takes {} to {}", row.least, row.most);
            return Err(Error::invalid_argument(message));
        }
        if let Some(field) = self.field(name) {
            *field = value;
        }
        Ok(())
    }

    /// Checks that a function may have `name` set to `value` below these limits, which are the server's.
    ///
    /// Errors: `invalid-argument`: no such limit, none of a function, out of its range, or above the server's value.
    pub fn check_lowered(&self, name: &str, value: u64) -> Result<()> {
        let lowered = || self.values().into_iter().filter(|(row, _)| row.per_function);
        let Some((row, server)) = lowered().find(|(row, _)| row.name == name) else {
            let name: String = name.chars().take(64).collect();
            let names: Vec<_> = lowered().map(|(row, _)| row.name).collect();
            let message = format!("'{name}' is no limit that a function can have; there are {}", names.join(", "));
            return Err(Error::invalid_argument(message));
        };
        if value > server {
            return Err(Error::invalid_argument(format!(
                "limit {name} is {server} on this server; a function can lower it and not raise it to {value}"
            )));
        }
        if value < row.least {
            let message = format!("limit {name} is {value}, but takes {} to {server}", row.least);
            return Err(Error::invalid_argument(message));
        }
        Ok(())
    }

    /// The server's limits, lowered by those of one function. If the server was since started with a lower value, that value
    /// holds. A name that is no longer a limit of a function is ignored.
    pub fn lowered<'a>(&self, function: impl IntoIterator<Item = (&'a String, &'a u64)>) -> Limits {
        let mut limits = self.clone();
        for (name, value) in function {
            if LIMITS.iter().any(|row| row.name == name && row.per_function)
                && let Some(field) = limits.field(name)
            {
                *field = (*field).min(*value);
            }
        }
        limits
    }
}

fn number(text: &str) -> Option<u64> {
    let (digits, factor) = match text {
        _ if text.ends_with("KiB") => (&text[..text.len() - 3], KIB),
        _ if text.ends_with("MiB") => (&text[..text.len() - 3], MIB),
        _ if text.ends_with("GiB") => (&text[..text.len() - 3], GIB),
        _ => (text, 1),
    };
    digits.trim().replace('_', "").parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_lies_in_its_range_and_has_a_reason() {
        for row in LIMITS {
            assert!(row.least <= row.default && row.default <= row.most, "{}", row.name);
            assert!(row.reason.trim().len() > 20, "{} needs a reason", row.name);
        }
    }

    #[test]
    fn assignments_take_units_and_name_what_is_wrong() {
        let mut limits = Limits::default();
        limits.set("body-bytes = 2MiB").unwrap();
        assert_eq!(limits.body_bytes, 2 * MIB);
        for (text, part) in [
            ("body_bytes", "NAME=VALUE"),
            ("body_bytes=much", "no number"),
            ("body_byte=1", "there are"),
            ("yield_ms=0", "takes 1 to"),
            ("body_bytes=99999999999GiB", "no number"),
        ] {
            let message = limits.set(text).unwrap_err().message().to_owned();
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn a_function_lowers_its_own_limits_and_no_others() {
        let server = Limits { invocation_ms: 500, ..Limits::default() };
        for (name, value, part) in [
            ("invocation_ms", 501, "is 500 on this server"),
            ("invocation_ms", 0, "takes 1 to 500"),
            ("yield_ms", 1, "no limit that a function can have; there are body_bytes, "),
            ("speed", 1, "'speed' is no limit"),
        ] {
            let message = server.check_lowered(name, value).unwrap_err().message().to_owned();
            assert!(message.contains(part), "{name}: {message}");
        }
        server.check_lowered("invocation_ms", 500).unwrap();
        let own = [("invocation_ms", 900), ("log_bytes", 5), ("yield_ms", 1), ("gone", 1)];
        let own: std::collections::BTreeMap<_, _> = own.map(|(name, value)| (name.to_owned(), value)).into();
        assert_eq!(server.lowered(&own), Limits { log_bytes: 5, ..server.clone() });
    }

    /// A number with commas and its unit; bytes in the largest unit that they are whole in.
    fn shown(row: &Limit, value: u64) -> String {
        const UNITS: [(u64, &str); 5] = [(1 << 40, " TiB"), (GIB, " GiB"), (MIB, " MiB"), (KIB, " KiB"), (1, " bytes")];
        let (count, unit) = match row.name {
            _ if value == u64::MAX => return "any".to_owned(),
            name if name.ends_with("_bytes") => {
                let whole = UNITS.iter().find(|(size, _)| value >= *size && value.is_multiple_of(*size));
                whole.map_or((value, " bytes"), |(size, unit)| (value / size, *unit))
            }
            name if name.ends_with("_ms") => (value, " ms"),
            _ => (value, ""),
        };
        let digits = count.to_string();
        let mut text = String::new();
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        text + if (count, unit) == (1, " bytes") { " byte" } else { unit }
    }

    const HEAD: [&str; 14] = [
        "# Limits",
        "",
        "Everything that a client, a component or a model could make grow has a limit. `hearth serve --limit NAME=VALUE`",
        "sets one (repeat it for more; or `HEARTH_LIMITS`, or `limits = [\"NAME=VALUE\"]` in the file of `--config`).",
        "Values may end in KiB, MiB or GiB. `hearth status` shows what a server has.",
        "",
        "Those with *yes* can be lowered for one function, and not raised: `hearth settings FUNCTION --limit NAME=VALUE`,",
        "or `limits` in `PATCH /v1/functions/{name}/settings`.",
        "",
        "This page is generated from the table in `host/src/config/limits.rs`; with `HEARTH_WRITE_DOCS=1` in the",
        "environment its test writes it again.",
        "",
        "| limit | default | from | to | for one function | what it bounds, and why |",
        "|---|---|---|---|---|---|",
    ];

    fn document() -> String {
        let mut text = HEAD.join("\n") + "\n";
        for row in LIMITS {
            let [default, least, most] = [row.default, row.least, row.most].map(|value| shown(row, value));
            let per_function = if row.per_function { "yes" } else { "" };
            let reason = row.reason.trim();
            text.push_str(&format!("| `{}` | {default} | {least} | {most} | {per_function} | {reason} |\n", row.name));
        }
        text
    }

    #[test]
    fn the_page_of_limits_is_this_table() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/limits.md");
        let wanted = document();
        if std::env::var_os("HEARTH_WRITE_DOCS").is_some_and(|value| value == "1") {
            std::fs::write(&path, &wanted).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == wanted, "docs/limits.md is not what the table says; run this test with HEARTH_WRITE_DOCS=1");
    }
}
