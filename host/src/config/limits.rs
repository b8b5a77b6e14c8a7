//! The one table of limits: each limit once, with its default, its range and the reason; it never reads the environment.

use crate::error::{Error, Result};

/// One row of the table, for flags, documentation and `/v1/status`.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// The name, as in `--limit NAME=VALUE`; its last word is the unit.
    pub name: &'static str,
    /// The value where nothing else is set.
    pub default: u64,
    /// The smallest value that can be set.
    pub least: u64,
    /// The largest value that can be set.
    pub most: u64,
    /// What it bounds and why the default is what it is.
    pub reason: &'static str,
}

macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $name:ident = $default:expr, $least:expr, $most:expr;)*) => {
        /// The value of every limit. Each field is a row of [`LIMITS`].
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Limits { $($(#[doc = $doc])+ pub $name: u64,)* }

        /// The table.
        pub const LIMITS: &[Limit] = &[$(Limit {
            name: stringify!($name),
            default: $default,
            least: $least,
            most: $most,
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
    body_bytes = 64 * MIB, 0, 2 * GIB;
    /// Bytes of a function's response body.
    response_bytes = 64 * MIB, 0, 2 * GIB;
    /// Header lines that a function may answer with.
    response_headers = 100, 1, 1_000;
    /// Bytes of all names and values of those header lines.
    response_header_bytes = 64 * KIB, 64, MIB;
    /// Bytes of a JSON body to the control plane.
    json_bytes = MIB, KIB, 64 * MIB;
    /// Bytes of an uploaded component. Interpreters of other languages compiled to Wasm take up to 50 MiB.
    component_bytes = 128 * MIB, KIB, GIB;
    /// Bytes of an uploaded model, all its files together.
    model_bytes = 64 * GIB, KIB, 4096 * GIB;
    /// Files in an uploaded model archive.
    model_files = 10_000, 1, 1_000_000;
    /// Bytes of one asset that a guest reads at once.
    asset_bytes = 64 * MIB, KIB, 2 * GIB;
    /// Bytes of a function's or model's name. Names are parts of URLs and metrics.
    name_bytes = 64, 1, 128;
    /// Milliseconds of one invocation, waiting for models included.
    invocation_ms = 30_000, 1, 3_600_000;
    /// Milliseconds between two points where a running guest lets others run.
    yield_ms = 5, 1, 1_000;
    /// Invocations that run at once. Each holds a slot of the instance pool.
    concurrent_invocations = 256, 1, 10_000;
    /// Invocations that wait for a slot; more are refused as overloaded.
    queued_invocations = 1_024, 0, 1_000_000;
    /// Bytes of a guest's linear memory, all of them in an instance together.
    guest_memory_bytes = 512 * MIB, 64 * KIB, 4 * GIB;
    /// Linear memories of an instance. A component of several modules has one for each.
    guest_memories = 8, 1, 64;
    /// Elements of one table of an instance. Tables hold function references; programs of 50 MiB have some ten thousand.
    guest_table_elements = 100_000, 1_000, 10_000_000;
    /// Core modules' instances within a component's instance.
    guest_core_instances = 64, 1, 1_000;
    /// Bytes of the stack of a guest's calls. Deeper recursion traps.
    guest_stack_bytes = MIB, 64 * KIB, 8 * MIB;
    /// Bytes of one guest call's lists and strings, copied by the host.
    hostcall_bytes = 128 * MIB, MIB, 2 * GIB;
    /// Bytes of log lines of one invocation; later lines are dropped and counted.
    log_bytes = 64 * KIB, 0, 64 * MIB;
    /// Log lines kept for each function, the newest ones.
    log_lines = 1_000, 1, 100_000;
    /// Clients that follow functions' logs at once. Each holds a connection for as long as it likes.
    log_followers = 100, 0, 100_000;
    /// Bytes of all tensors of one invocation that are alive at once, those of views counted once.
    tensor_bytes = GIB, KIB, 1024 * GIB;
    /// Tensors of one invocation that are alive at once.
    tensor_count = 10_000, 1, 1_000_000;
    /// Dimensions of a tensor.
    tensor_rank = 8, 1, 32;
    /// Arithmetic operations of one operator call, as its cost rule counts them: some 20 s on one core.
    operator_operations = 20_000_000_000, 1_000, u64::MAX;
    /// Pixels of an image that `decode-image` takes: a 100-megapixel scan is 300 MB of tensor.
    image_pixels = 100_000_000, 1, 10_000_000_000;
    /// Model runs of one invocation.
    model_runs = 10_000, 1, 1_000_000_000;
    /// Model runs waiting for one model at once; more are refused as overloaded.
    queued_model_runs = 1_024, 1, 1_000_000;
    /// Bytes of host memory for tensors and models' work on the CPU device, all tenants together.
    device_bytes = 8 * GIB, MIB, 4096 * GIB;
    /// Milliseconds that a shutting-down server lets running requests finish.
    shutdown_ms = 10_000, 0, 600_000;
    /// Milliseconds that a client may take between two parts of a body.
    body_idle_ms = 30_000, 100, 3_600_000;
    /// Connections of clients that are open at once.
    connections = 10_000, 1, 1_000_000;
}

impl Limits {
    /// Sets one limit from `name=value`. Values may end in KiB, MiB or GiB.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let (name, text) = assignment
            .split_once('=')
            .ok_or_else(|| Error::invalid_argument(format!("limit '{assignment}' is not NAME=VALUE")))?;
        let name = name.trim().replace('-', "_");
        let value = parse(text.trim()).ok_or_else(|| {
            Error::invalid_argument(format!("limit {name}: '{text}' is no number (try 1000, 64KiB, 1GiB)"))
        })?;
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
}

fn parse(text: &str) -> Option<u64> {
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
}
