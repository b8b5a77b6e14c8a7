//! Kernels on disk: those that this node signed are loaded, and all others are compiled again.

use super::super::machine_code::MachineCode;
use super::*;
use crate::signed_cache::tests::damages;
use crate::signed_cache::{Kind as Files, Signer};
use sha2::{Digest, Sha256};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A process that uses a data folder: the negated numbers that it computes, and the number of units it compiled for them.
fn negated(data: &Path, dtypes: &[DType]) -> usize {
    let key = NodeKey::open(data).unwrap();
    let driver = OnCpu::keeping(MachineCode::open(data.join("kernels"), &key, 90, (13, 5)).unwrap());
    let device = driver.device(BUDGET_BYTES);
    let account = account(&device);
    for dtype in dtypes {
        let [bytes, expected] = match dtype {
            DType::F32 => [1.5f32.to_le_bytes(), (-1.5f32).to_le_bytes()],
            _ => [7i32.to_le_bytes(), (-7i32).to_le_bytes()],
        };
        let tensor = device.create(&account, *dtype, shape(&[3]), &bytes.repeat(3)).unwrap();
        let negative = run(&device, &account, &Op::Unary(Unary::Negate), &[&tensor]).unwrap();
        assert_eq!(negative[0].read(0..12).unwrap(), expected.repeat(3), "{dtype}");
    }
    driver.compiled()
}

fn kernel(data: &Path, unit: &str) -> PathBuf {
    let mut files = fs::read_dir(data.join("kernels")).unwrap().map(|entry| entry.unwrap().path());
    let of_unit = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(unit);
    files.find(of_unit).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn kernels_that_this_node_did_not_sign_are_compiled_anew() {
    if OnCpu::where_it_can_be(false).is_none() {
        return;
    }
    let (own, strange) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let data = own.path();
    // As version 0.1 left it.
    fs::create_dir(data.join("kernels")).unwrap();
    fs::set_permissions(data.join("kernels"), Permissions::from_mode(0o755)).unwrap();
    fs::write(data.join("kernels/elements-f32-sm90.partial-7"), b"half").unwrap();
    let both = [DType::F32, DType::S32];
    assert_eq!(negated(data, &both), 2);
    assert_eq!(negated(data, &both), 0, "they are kept");
    assert_eq!(negated(strange.path(), &both), 2);
    assert_eq!(fs::read_dir(data.join("kernels")).unwrap().count(), 2);

    let (file, other) = (kernel(data, "elements-f32"), kernel(data, "elements-s32"));
    assert_eq!([data.join("kernels").as_path(), &file, &other].map(mode), [0o700, 0o600, 0o600]);
    let whole = fs::read(&file).unwrap();
    let strangers = fs::read(kernel(strange.path(), "elements-f32")).unwrap();
    assert!(whole[32..] == strangers[32..] && whole[..32] != strangers[..32], "only the signatures differ");
    // What version 0.1 wrote under the same name: code, and its SHA-256.
    let code = &whole[32..];
    let old = [code, &Sha256::digest(code)[..]].concat();
    let mut damages = damages(&whole, &fs::read(&other).unwrap(), &strangers);
    assert!(damages.iter().any(|(_, damaged)| *damaged == old), "the old format is among them");
    // Signed by this node, as another kind of file.
    let name = file.file_name().unwrap().to_str().unwrap().strip_suffix(".cubin").unwrap();
    let as_form = data.join("form");
    Signer::new(&NodeKey::open(data).unwrap(), Files::Prepared).write(&as_form, name, &[code]).unwrap();
    damages.push(("signed as a prepared form".to_owned(), fs::read(as_form).unwrap()));
    for (what, damaged) in damages {
        fs::write(&file, damaged).unwrap();
        assert_eq!(negated(data, &both), 1, "{what}");
        assert!(fs::read(&file).unwrap() == whole, "{what}: it was replaced");
        assert_eq!(negated(data, &both), 0, "{what}");
    }
    // Another node's key: none of the kept code is used.
    fs::copy(strange.path().join("node.key"), data.join("node.key")).unwrap();
    assert_eq!(negated(data, &both), 2);
    assert_eq!(mode(&file), 0o600);
}

#[test]
fn kernels_of_another_architecture_or_compiler_are_not_taken() {
    let data = tempfile::tempdir().unwrap();
    let key = NodeKey::open(data.path()).unwrap();
    let code = |architecture: u32, compiler: (i32, i32), made: &[u8]| {
        let kept = MachineCode::open(data.path().join("kernels"), &key, architecture, compiler).unwrap();
        kept.of(super::super::units::Unit::moves(4), || Ok(made.to_vec())).unwrap()
    };
    assert_eq!(code(90, (13, 5), b"first"), b"first");
    assert_eq!(code(90, (13, 5), b"second"), b"first");
    assert_eq!(code(80, (13, 5), b"of another GPU"), b"of another GPU");
    assert_eq!(code(90, (12, 9), b"of another compiler"), b"of another compiler");
    // Under another unit's name its signature is wrong.
    let file = |part: &str| {
        let mut files = fs::read_dir(data.path().join("kernels")).unwrap().map(|entry| entry.unwrap().path());
        files.find(|path| path.to_str().unwrap().contains(part)).unwrap()
    };
    fs::rename(file("sm80"), file("nvrtc12.9")).unwrap();
    assert_eq!(code(90, (12, 9), b"made anew"), b"made anew");
    assert_eq!(code(90, (13, 5), b"third"), b"first");
}
