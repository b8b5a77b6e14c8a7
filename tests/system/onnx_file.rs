//! Writes models for tests, field by field (onnx.proto, by number): one of any size with external data, which sums rows of
//! tables, and a small classifier of pictures. It never runs one.

use std::io::{BufWriter, Write};
use std::path::Path;

/// The index of a row.
pub(crate) type Row = i64;

/// `sums = Gather(t0, ids) + Gather(t1, ids) + Gather(t2, ids)`, with two tables in one file and the third in another.
pub(crate) struct Embedding {
    rows: usize,
}

const TABLES: usize = 3;
const F32: u64 = 1;
const S64: u64 = 7;

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn int(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn bytes(field: u64, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    [&varint(field << 3 | 2), &varint(value.len() as u64), value].concat()
}

fn node(operator: &str, inputs: &[&str], output: &str) -> Vec<u8> {
    let inputs: Vec<u8> = inputs.iter().flat_map(|name| bytes(1, name)).collect();
    bytes(1, [inputs, bytes(2, output), bytes(4, operator)].concat())
}

fn value(field: u64, name: &str, element: u64, dims: &[Vec<u8>]) -> Vec<u8> {
    let dims: Vec<u8> = dims.iter().flat_map(|dim| bytes(1, dim)).collect();
    let tensor = [int(1, element), bytes(2, dims)].concat();
    bytes(field, [bytes(1, name), bytes(2, bytes(1, tensor))].concat())
}

/// A classifier of `picture` [batch, 3, 16, 16] into `scores` [batch, 10]: a convolution, a mean, a product; weights by a seed.
pub(crate) fn classifier(seed: u64) -> Vec<u8> {
    let weights = |name: &str, dims: &[u64], scale: f32| {
        let count: u64 = dims.iter().product();
        let element = |index: u64| {
            let mixed = (index + 1).wrapping_mul(seed | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            ((mixed >> 40) as f32 / (1 << 23) as f32 - 1.0) * scale
        };
        let raw: Vec<u8> = (0..count).flat_map(|index| element(index).to_le_bytes()).collect();
        let dims: Vec<u8> = dims.iter().flat_map(|dim| int(1, *dim)).collect();
        bytes(5, [dims, int(2, F32), bytes(8, name), bytes(9, raw)].concat())
    };
    let fixed = |dims: &[u64]| -> Vec<Vec<u8>> {
        [bytes(2, "batch")].into_iter().chain(dims.iter().map(|dim| int(1, *dim))).collect()
    };
    let graph = [
        node("Conv", &["picture", "w"], "a"),
        node("Relu", &["a"], "b"),
        node("GlobalAveragePool", &["b"], "c"),
        node("Flatten", &["c"], "d"),
        node("MatMul", &["d", "v"], "scores"),
        bytes(2, "classifier"),
        weights("w", &[8, 3, 5, 5], 0.5),
        weights("v", &[8, 10], 2.0),
        value(11, "picture", F32, &fixed(&[3, 16, 16])),
        value(12, "scores", F32, &fixed(&[10])),
    ];
    [int(1, 10), bytes(7, graph.concat()), bytes(8, int(2, 21))].concat()
}

impl Embedding {
    /// Elements of a row.
    pub(crate) const COLUMNS: usize = 64;

    /// One whose tables have about this many bytes together.
    pub(crate) fn of(bytes: u64) -> Embedding {
        Embedding { rows: (bytes / (TABLES * Embedding::COLUMNS * 4) as u64) as usize }
    }

    /// How many rows each table has.
    pub(crate) fn rows(&self) -> Row {
        self.rows as Row
    }

    /// Bytes of all tables.
    pub(crate) fn bytes(&self) -> u64 {
        (TABLES * self.rows * Embedding::COLUMNS * 4) as u64
    }

    /// An element: any number, exact in f32 and different from its neighbours.
    fn element(table: usize, index: usize) -> f32 {
        let mixed = (index as u64 * TABLES as u64 + table as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 44) as f32 / 1024.0
    }

    /// The model's expected output for a row. Sums of such elements are exact.
    pub(crate) fn sums(&self, row: Row) -> Vec<f32> {
        let first = row as usize * Embedding::COLUMNS;
        let sum = |index| (0..TABLES).map(|table| Embedding::element(table, index)).sum();
        (first..first + Embedding::COLUMNS).map(sum).collect()
    }

    /// Writes `model.onnx` and its data into a folder.
    pub(crate) fn write(&self, folder: &Path) {
        let table_bytes = (self.rows * Embedding::COLUMNS * 4) as u64;
        let table = |number: usize, file: &str, offset: u64| {
            let entry = |key: &str, value: &str| bytes(13, [bytes(1, key), bytes(2, value)].concat());
            let dims = [int(1, self.rows as u64), int(1, Embedding::COLUMNS as u64)].concat();
            let place = [
                entry("location", file),
                entry("offset", &offset.to_string()),
                entry("length", &table_bytes.to_string()),
            ];
            let name = bytes(8, format!("t{number}"));
            bytes(5, [dims, int(2, F32), name, place.concat(), int(14, 1)].concat())
        };
        let graph = [
            node("Gather", &["t0", "ids"], "g0"),
            node("Gather", &["t1", "ids"], "g1"),
            node("Gather", &["t2", "ids"], "g2"),
            node("Add", &["g0", "g1"], "g01"),
            node("Add", &["g01", "g2"], "sums"),
            bytes(2, "embedding"),
            table(0, "tables.bin", 0),
            table(1, "tables.bin", table_bytes),
            table(2, "more/third.bin", 0),
            value(11, "ids", S64, &[bytes(2, "batch")]),
            value(12, "sums", F32, &[bytes(2, "batch"), int(1, Embedding::COLUMNS as u64)]),
        ];
        let model = [int(1, 10), bytes(7, graph.concat()), bytes(8, int(2, 21))].concat();
        std::fs::write(folder.join("model.onnx"), model).unwrap();
        std::fs::create_dir_all(folder.join("more")).unwrap();
        for (name, tables) in [("tables.bin", 0..2), ("more/third.bin", 2..3)] {
            let mut file = BufWriter::with_capacity(1 << 20, std::fs::File::create(folder.join(name)).unwrap());
            for table in tables {
                for index in 0..self.rows * Embedding::COLUMNS {
                    file.write_all(&Embedding::element(table, index).to_le_bytes()).unwrap();
                }
            }
            file.flush().unwrap();
        }
    }
}
