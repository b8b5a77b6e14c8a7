//! Compares `decode-image` with Pillow on pictures that Pillow writes, new ones in each run.

use crate::harness::{python, root};
use hearth::config::Limits;
use hearth::device::{Ledger, Owner, Stop, decode_image};
use std::collections::BTreeMap;
use std::path::Path;

/// The output of `tests/python/images.py`.
#[derive(serde::Deserialize)]
struct Index {
    kinds: BTreeMap<String, Bound>,
    pictures: Vec<Picture>,
}

/// How far samples may differ from Pillow's.
#[derive(serde::Deserialize)]
struct Bound {
    /// The mean over all samples of a kind.
    mean: f64,
    /// The largest difference of a sample.
    largest: u8,
    /// The mean over samples within two pixels of an edge, if these do not count in the other one.
    edges: Option<f64>,
}

#[derive(serde::Deserialize)]
struct Picture {
    name: String,
    kind: String,
    file: String,
    height: u64,
    width: u64,
    pixels: String,
}

/// The differences of samples of a kind.
#[derive(Default)]
struct Found {
    pictures: u64,
    all: Differences,
    edges: Differences,
}

#[derive(Default)]
struct Differences {
    samples: u64,
    sum: u64,
    largest: u8,
}

impl Differences {
    fn add(&mut self, difference: u8) {
        self.samples += 1;
        self.sum += u64::from(difference);
        self.largest = self.largest.max(difference);
    }

    fn mean(&self) -> f64 {
        self.sum as f64 / self.samples.max(1) as f64
    }
}

#[test]
fn images_are_what_pillow_reads() {
    let Some(mut make) = python() else { return };
    let seed = rand::random::<u32>();
    println!("seed {seed}");
    let folder = tempfile::tempdir().unwrap();
    make.arg(root().join("tests/python/images.py")).arg(seed.to_string()).arg(folder.path());
    assert!(make.env("PYTHONDONTWRITEBYTECODE", "1").status().unwrap().success());
    let read = |name: &str| std::fs::read(Path::new(folder.path()).join(name)).unwrap();
    let index: Index = serde_json::from_slice(&read("index.json")).unwrap();
    let account = Ledger::new(1 << 26).account(Owner::Workspace, 1 << 26, 1);
    let mut kinds: BTreeMap<&str, Found> = BTreeMap::new();
    let mut wrong = Vec::new();
    for Picture { name, kind, file, height, width, pixels } in &index.pictures {
        let bound = &index.kinds[kind];
        let decoded = decode_image(&read(file), &account, &Limits::default(), &Stop::default());
        let (shape, samples) = match decoded {
            Ok(decoded) => decoded,
            Err(error) => {
                wrong.push(format!("{kind}, {name}: {error}"));
                continue;
            }
        };
        let expected = read(pixels);
        if (shape.dims(), samples.len()) != (&[*height, *width, 3][..], expected.len()) {
            wrong.push(format!("{kind}, {name}: the shape is {shape}"));
            continue;
        }
        let found = kinds.entry(kind).or_default();
        found.pictures += 1;
        let mut far = None;
        for (at, (ours, theirs)) in samples.iter().zip(&expected).enumerate() {
            let [y, x] = [at as u64 / 3 / width, at as u64 / 3 % width];
            let inside = (2..height.saturating_sub(2)).contains(&y) && (2..width.saturating_sub(2)).contains(&x);
            let difference = ours.abs_diff(*theirs);
            if bound.edges.is_some() && !inside {
                found.edges.add(difference);
                continue;
            }
            found.all.add(difference);
            if difference > bound.largest {
                far.get_or_insert_with(|| format!("{kind}, {name}: at {y}, {x} it is {ours}, Pillow has {theirs}"));
            }
        }
        wrong.extend(far);
    }
    for (kind, bound) in &index.kinds {
        let Some(Found { pictures, all, edges }) = kinds.get(kind.as_str()) else {
            wrong.push(format!("{kind}: no picture was read"));
            continue;
        };
        println!("{kind}: {pictures} pictures, from Pillow {:.4} on average and at most {}", all.mean(), all.largest);
        if bound.edges.is_some() {
            println!("    and {:.4} and {} within two pixels of an edge", edges.mean(), edges.largest);
        }
        for (found, most) in [(all.mean(), bound.mean), (edges.mean(), bound.edges.unwrap_or_default())] {
            if found > most {
                wrong.push(format!("{kind}: differences are {found:.4} on average, not at most {most}"));
            }
        }
    }
    assert!(wrong.is_empty(), "seed {seed}: {} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
