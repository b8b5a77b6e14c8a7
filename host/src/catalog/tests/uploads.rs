//! Uploads of models: what is taken, what is refused, and how packages are laid out.

use super::*;
use crate::error::Kind;
use crate::model::{Checked, EngineChoice, EngineName, Verdict};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use tar::{EntryType, Header};

async fn upload_with(catalog: &Catalog, data: &[u8]) -> Result<ModelUpload> {
    let mut writer = catalog.begin_model();
    for chunk in data.chunks(100_000) {
        writer.write(chunk).await?;
    }
    writer.finish().await
}

/// A tar of entries: kind, raw name, data. Names are written as they are, whatever they say.
fn tar_of(entries: &[(EntryType, &[u8], &[u8])]) -> Vec<u8> {
    let mut all = Vec::new();
    for &(kind, name, data) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_cksum();
        all.extend_from_slice(header.as_bytes());
        all.extend_from_slice(data);
        all.resize(all.len().next_multiple_of(512), 0);
    }
    all.resize(all.len() + 1024, 0);
    all
}

fn files(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let entries: Vec<_> = entries.iter().map(|(name, data)| (EntryType::Regular, name.as_bytes(), *data)).collect();
    tar_of(&entries)
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

const ONNX: &[u8] = b"\x08\x08\x12\x04test";

#[tokio::test]
async fn the_same_files_give_the_same_digest_however_they_come() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder).await;
    let raw = upload_with(&catalog, ONNX).await.unwrap();
    assert_eq!((raw.bytes, raw.package.files.len()), (ONNX.len() as u64, 1));
    let tar = files(&[("model.onnx", ONNX)]);
    let dotted = tar_of(&[(EntryType::Directory, b"./", b""), (EntryType::Regular, b"./model.onnx", ONNX)]);
    for same in [&tar, &gzip(&tar), &dotted] {
        assert_eq!(upload_with(&catalog, same).await.unwrap().digest, raw.digest);
    }
    let one = files(&[("model.onnx", ONNX), ("assets/vocab.txt", b"a\nb"), ("w.bin", b"")]);
    let other = files(&[("w.bin", b""), ("assets/vocab.txt", b"a\nb"), ("model.onnx", ONNX)]);
    let one = upload_with(&catalog, &one).await.unwrap();
    assert_eq!(one.digest, upload_with(&catalog, &other).await.unwrap().digest);
    assert_ne!(one.digest, raw.digest);
    let renamed = files(&[("model.onnx", ONNX), ("assets/vocab.tx", b"a\nb"), ("w.bin", b"")]);
    assert_ne!(one.digest, upload_with(&catalog, &renamed).await.unwrap().digest);
}

#[tokio::test]
async fn long_names_are_taken_from_both_kinds_of_extended_headers() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder).await;
    let long = format!("assets/{}/{}", "d".repeat(120), "f".repeat(120));
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data) in [("model.onnx", ONNX), (long.as_str(), b"asset")] {
        let mut header = Header::new_gnu();
        header.set_size(data.len() as u64);
        builder.append_data(&mut header, name, data).unwrap();
    }
    let gnu = upload_with(&catalog, &builder.into_inner().unwrap()).await.unwrap();
    assert_eq!(gnu.package.files[&long].bytes, 5);

    let mut builder = tar::Builder::new(Vec::new());
    let mut header = Header::new_ustar();
    header.set_size(ONNX.len() as u64);
    builder.append_data(&mut header, "model.onnx", ONNX).unwrap();
    builder.append_pax_extensions([("path", long.as_bytes()), ("mtime", b"1.5")]).unwrap();
    header.set_size(5);
    builder.append_data(&mut header, "short", &b"asset"[..]).unwrap();
    assert_eq!(upload_with(&catalog, &builder.into_inner().unwrap()).await.unwrap().digest, gnu.digest);
}

#[tokio::test]
async fn hostile_and_broken_uploads_are_refused_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { model_files: 3, model_bytes: 1 << 20, ..Limits::default() };
    let catalog = open_with(&folder, &limits).await;
    let model = (EntryType::Regular, &b"model.onnx"[..], ONNX);
    let with = |kind, name: &'static [u8]| tar_of(&[model, (kind, name, b"")]);
    let good = files(&[("model.onnx", ONNX), ("assets/a", &[7; 5000])]);
    let mut wrong_sum = good.clone();
    wrong_sum[0] ^= 1;
    let mut wrong_second = good.clone();
    wrong_second[1024] ^= 1;
    let mut wrong_gzip = gzip(&good);
    let end = wrong_gzip.len() - 6;
    wrong_gzip[end] ^= 1;
    let long_name = tar_of(&[(EntryType::GNULongName, b"././@LongLink", &vec![b'a'; 70_000]), model]);
    let long_path = tar_of(&[(EntryType::GNULongName, b"././@LongLink", &vec![b'a'; 600]), model]);
    let sparse = tar_of(&[(EntryType::XHeader, b"x", b"22 GNU.sparse.major=1\n"), model]);
    let up = tar_of(&[(EntryType::XHeader, b"x", b"16 path=../evil\n"), model]);
    let endless = tar_of(&[(EntryType::XHeader, b"x", b"29 size=18446744073709551615\n"), model]);
    let wrong_pax = tar_of(&[(EntryType::XHeader, b"x", b"99 path=a\n"), model]);
    let many = files(&[("model.onnx", ONNX), ("a", b"1"), ("b", b"2"), ("c", b"3")]);
    let onnx_bomb = vec![8; (1 << 20) + 1];
    let tar_bomb = gzip(&files(&[("model.onnx", ONNX), ("zeros", &vec![0; 2 << 20])]));
    let mut tail = good.clone();
    tail.resize(8 << 20, 0);
    let cases: Vec<(&str, Vec<u8>, Kind, &str)> = vec![
        ("absolute", with(EntryType::Regular, b"/etc/passwd"), Kind::InvalidArgument, "absolute"),
        ("up", with(EntryType::Regular, b"assets/../../x"), Kind::InvalidArgument, "'..'"),
        ("up by pax", up, Kind::InvalidArgument, "'..'"),
        ("up by folder", with(EntryType::Directory, b"../"), Kind::InvalidArgument, "'..'"),
        ("backslash", with(EntryType::Regular, b"a\\b"), Kind::InvalidArgument, "backslash"),
        ("newline", with(EntryType::Regular, b"a\nb"), Kind::InvalidArgument, "control"),
        ("not UTF-8", with(EntryType::Regular, b"a\xff"), Kind::InvalidArgument, "UTF-8"),
        ("no name", with(EntryType::Regular, b"."), Kind::Malformed, "no name"),
        ("symbolic link", with(EntryType::Symlink, b"l"), Kind::InvalidArgument, "symbolic link"),
        ("hard link", with(EntryType::Link, b"l"), Kind::InvalidArgument, "hard link"),
        ("character device", with(EntryType::Char, b"d"), Kind::InvalidArgument, "device"),
        ("block device", with(EntryType::Block, b"d"), Kind::InvalidArgument, "device"),
        ("pipe", with(EntryType::Fifo, b"p"), Kind::InvalidArgument, "pipe"),
        ("sparse", with(EntryType::GNUSparse, b"s"), Kind::InvalidArgument, "sparse"),
        ("sparse by pax", sparse, Kind::InvalidArgument, "sparse"),
        ("twice", tar_of(&[model, model]), Kind::InvalidArgument, "twice"),
        (
            "file and folder",
            files(&[("model.onnx", ONNX), ("a", b""), ("a/b", b"")]),
            Kind::InvalidArgument,
            "as a folder",
        ),
        ("long name", long_name, Kind::Malformed, "70000"),
        ("long path", long_path, Kind::InvalidArgument, "too long"),
        ("endless", endless, Kind::TooLarge, "model_bytes"),
        ("wrong pax", wrong_pax, Kind::Malformed, "list of records"),
        ("many files", many, Kind::TooLarge, "model_files"),
        ("big model", onnx_bomb, Kind::TooLarge, "model_bytes"),
        ("bomb", tar_bomb, Kind::TooLarge, "model_bytes"),
        ("endless end", gzip(&tail), Kind::TooLarge, "model_bytes"),
        ("no model", files(&[("m/model.onnx", ONNX), ("m/a", b"")]), Kind::InvalidArgument, "m/a, m/model.onnx"),
        ("no files", files(&[]), Kind::InvalidArgument, "no files"),
        ("cut in data", good[..1500].to_vec(), Kind::Malformed, "cut off"),
        ("cut in header", good[..1200].to_vec(), Kind::Malformed, "cut off"),
        ("cut between entries", good[..1024].to_vec(), Kind::Malformed, "cut off"),
        ("cut gzip", gzip(&good)[..60].to_vec(), Kind::Malformed, "cut off"),
        ("wrong gzip", wrong_gzip, Kind::Malformed, "cannot be read"),
        ("wrong second header", wrong_second, Kind::Malformed, "checksum"),
        ("gzip of no tar", gzip(ONNX), Kind::Malformed, "no tar"),
        ("empty", Vec::new(), Kind::Malformed, "empty"),
        ("zip", b"PK\x03\x04abc".to_vec(), Kind::Malformed, "a zip"),
        ("page", b"<!doctype html>".to_vec(), Kind::Malformed, "HTML"),
    ];
    for (what, data, kind, part) in cases {
        let error = upload_with(&catalog, &data).await.map(|upload| upload.package).expect_err(what);
        assert!(error.kind() == kind && error.message().contains(part), "{what}: {} {error}", error.kind());
        assert!(error.message().len() < 400, "{what}: {error}");
    }
    // What is no tar any more is taken for an .onnx, which the check of the model refuses.
    assert_eq!(upload_with(&catalog, &wrong_sum).await.unwrap().package.files.len(), 1);
    assert_eq!(upload_with(&catalog, &good).await.unwrap().package.files.len(), 2);

    let mut given_up = catalog.begin_model();
    given_up.write(&good[..1500]).await.unwrap();
    drop(given_up);
    for _ in 0..500 {
        if incoming(&catalog) == 0 && catalog.inner.blobs.is_idle() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(incoming(&catalog), 0);
    collect_now(&catalog).await;
    assert_eq!(blobs_there(&catalog), 0);
}

#[tokio::test]
async fn models_are_stored_resolved_and_laid_out() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder).await;
    let tar = files(&[("model.onnx", ONNX), ("assets/a/b.txt", b"b"), ("assets/c/d.txt", b"d"), ("assets/same", b"b")]);
    let upload = upload_with(&catalog, &tar).await.unwrap();
    let place = catalog.package_folder(&upload.digest, &upload.package).unwrap();
    assert_eq!(std::fs::read(place.join("assets/a/b.txt")).unwrap(), b"b");
    let linked = std::fs::metadata(place.join("model.onnx")).unwrap();
    let blob = std::fs::metadata(catalog.path(&upload.package.files["model.onnx"].digest)).unwrap();
    assert_eq!((linked.ino(), linked.mode() & 0o777), (blob.ino(), 0o400));
    assert_eq!(catalog.package_folder(&upload.digest, &upload.package).unwrap(), place);

    let signature = json!({"inputs": [], "outputs": []});
    let checked = checked(EngineName::Rten);
    let put = catalog.put_model("default", "m", &upload, &signature, &checked).await.unwrap();
    assert_eq!(put, Put { version: 1, created: true });
    assert!(!catalog.put_model("default", "m", &upload, &signature, &checked).await.unwrap().created);
    let (digest, package) = (upload.digest.clone(), upload.package.clone());
    drop(upload);
    assert_eq!(collect_now(&catalog).await, 0);

    catalog.set_model_alias("default", "m", "stable", 1).await.unwrap();
    for name in ["m", "m@1", "m@stable"] {
        let found = catalog.resolve("default", name).await.unwrap();
        assert_eq!((found.name.as_str(), found.version, &found.digest), ("m", 1, &digest));
        assert_eq!((&found.package, &found.checked), (&package, &checked));
    }
    for (name, kind) in
        [("n", Kind::NotFound), ("m@2", Kind::NotFound), ("m@x", Kind::NotFound), ("M", Kind::InvalidArgument)]
    {
        assert_eq!(catalog.resolve("default", name).await.unwrap_err().kind(), kind, "{name}");
    }
    assert_eq!(catalog.models("default").await.unwrap()[0].bytes, ONNX.len() as u64 + 3);
    assert_eq!(catalog.model("default", "m").await.unwrap().versions[0].signature, signature);
    assert!(catalog.functions("default").await.unwrap().is_empty(), "models are no functions");

    catalog.close().await;
    let catalog = open(&folder).await;
    assert_eq!(catalog.resolve("default", "m@stable").await.unwrap().digest, digest);
    catalog.delete_model_alias("default", "m", "stable").await.unwrap();
    catalog.delete_model("default", "m").await.unwrap();
    collect_now(&catalog).await;
    assert_eq!((blobs_there(&catalog), place.exists()), (0, false));
    let error = catalog.package_folder(&digest, &package).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert_eq!(incoming(&catalog), 0);
}

fn checked(engine: EngineName) -> Checked {
    let verdict = Verdict {
        engine,
        version: String::new(),
        passed: true,
        reason: None,
        runs: 0,
        samples: 0,
        compared: 0,
        difference: None,
        fails: 0,
        failure: None,
    };
    Checked { engine: EngineChoice::Auto, engines: vec![verdict] }
}

#[tokio::test]
async fn models_from_before_engines_were_compared_run_on_onnxruntime() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder).await;
    let upload = upload_with(&catalog, &files(&[("model.onnx", ONNX)])).await.unwrap();
    let signature = json!({"inputs": [], "outputs": []});
    catalog.put_model("default", "m", &upload, &signature, &checked(EngineName::Rten)).await.unwrap();
    let pool = catalog.inner.models.pool.clone();
    for step in [
        "UPDATE versions SET detail = json_remove(detail, '$.checked')",
        "DROP TABLE pins",
        "DELETE FROM schema_version WHERE version >= 3",
    ] {
        sqlx::query(step).execute(&pool).await.unwrap();
    }
    catalog.close().await;
    drop((upload, pool));
    let catalog = open(&folder).await;
    let found = catalog.resolve("default", "m").await.unwrap();
    assert_eq!(found.checked, checked(EngineName::Onnxruntime));
}

#[tokio::test]
async fn packages_are_laid_out_once_by_many() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder).await;
    let upload = Arc::new(upload_with(&catalog, &files(&[("model.onnx", ONNX), ("a/b", b"b")])).await.unwrap());
    let work: Vec<_> = (0..8)
        .map(|_| {
            let (catalog, upload) = (catalog.clone(), Arc::clone(&upload));
            blocking(move || catalog.package_folder(&upload.digest, &upload.package))
        })
        .collect();
    for place in futures_util::future::join_all(work).await {
        assert_eq!(std::fs::read(place.unwrap().join("a/b")).unwrap(), b"b");
    }
    assert_eq!(incoming(&catalog), 0);
}

#[tokio::test]
async fn uploads_of_an_earlier_process_count_where_the_limits_are_lower_now() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder).await;
    let first = catalog.uploads().begin("a", Some(100)).await.unwrap();
    let second = catalog.uploads().begin("b", Some(200)).await.unwrap();
    catalog.close().await;
    let limits = Limits { open_uploads: 1, open_uploads_bytes: 150, ..Limits::default() };
    let catalog = open_with(&folder, &limits).await;
    let uploads = catalog.uploads();
    assert_eq!(uploads.used(), (2, 300));
    let mut part = uploads.append("a", &first.id, 0).await.unwrap();
    let refused = part.write(&[0; 10]).await.unwrap_err();
    assert!(refused.message().contains("have 300 bytes and 150 are allowed (open_uploads_bytes)"), "{refused}");
    drop(part);
    uploads.delete("b", &second.id).await.unwrap();
    assert_eq!(uploads.used(), (1, 100));
    let refused = uploads.begin("b", None).await.unwrap_err();
    assert!(refused.kind() == Kind::Overloaded && refused.message().starts_with("1 uploads are open"), "{refused}");
    let mut part = uploads.append("a", &first.id, 0).await.unwrap();
    part.write(&[0; 100]).await.unwrap();
    part.finish().await.unwrap();
    uploads.delete("a", &first.id).await.unwrap();
    assert_eq!(uploads.used(), (0, 0));
    uploads.begin("b", Some(150)).await.unwrap();
    assert_eq!(uploads.used(), (1, 150));
}
