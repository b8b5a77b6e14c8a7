//! Tests the catalog as a whole: what is durable, what is refused, what is collected. `uploads` tests uploads of models.

mod uploads;

use super::*;
use crate::confined::Confined;
use crate::error::Kind;
use crate::model::{Blobs, Directory};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use tempfile::TempDir;

async fn open(folder: &TempDir) -> Catalog {
    open_with(folder, &Limits::default()).await
}

async fn open_with(folder: &TempDir, limits: &Limits) -> Catalog {
    let catalog = Catalog::open(&folder.path().join("data"), limits, Confined::here(), Clock::system()).await.unwrap();
    // These tests start collections themselves, and only one collection runs at a time.
    catalog.stop_collecting().await;
    catalog
}

async fn blob(catalog: &Catalog, data: &[u8]) -> Blob {
    let mut writer = catalog.begin_blob().await.unwrap();
    writer.write(data).await.unwrap();
    assert_eq!(writer.bytes(), data.len() as u64);
    writer.finish().await.unwrap()
}

async fn put(catalog: &Catalog, tenant: &str, name: &str, data: &[u8]) -> Put {
    let blob = blob(catalog, data).await;
    catalog.put_function(tenant, name, &blob, "handler", &json!({"models": []})).await.unwrap()
}

async fn version(catalog: &Catalog, tenant: &str, text: &str) -> Result<u64> {
    let selector = Selector::parse(text, &Limits::default())?;
    Ok(catalog.resolve_function(tenant, &selector).await?.version)
}

/// Collects at once what would be collected after the grace period.
async fn collect_now(catalog: &Catalog) -> u64 {
    let candidates = collect::everything(&catalog.inner.blobs).unwrap();
    collect::collect(&catalog.inner.blobs, &catalog.inner.functions.pool, candidates).await.unwrap()
}

fn blobs_there(catalog: &Catalog) -> usize {
    let folders = std::fs::read_dir(catalog.inner.blobs.folder.blobs()).unwrap();
    folders.map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap().count()).sum()
}

fn incoming(catalog: &Catalog) -> usize {
    std::fs::read_dir(catalog.inner.blobs.folder.incoming()).unwrap().count()
}

#[tokio::test]
async fn versions_count_from_one_and_the_newest_put_is_live() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder).await;
    assert_eq!(put(&catalog, "default", "echo", b"one").await, Put { version: 1, created: true });
    assert_eq!(put(&catalog, "default", "echo", b"two").await, Put { version: 2, created: true });
    assert_eq!(version(&catalog, "default", "echo").await.unwrap(), 2);
    assert_eq!(put(&catalog, "default", "echo", b"one").await, Put { version: 1, created: false });
    assert_eq!(version(&catalog, "default", "echo").await.unwrap(), 1);
    assert_eq!(version(&catalog, "default", "echo@2").await.unwrap(), 2);
    assert_eq!(put(&catalog, "default", "echo", b"three").await, Put { version: 3, created: true });

    let detail = catalog.function("default", "echo").await.unwrap();
    assert_eq!(detail.live, 3);
    assert_eq!(detail.versions.iter().map(|version| version.version).collect::<Vec<_>>(), [1, 2, 3]);
    let made = &detail.versions[0].created_at;
    assert!(made.len() == 20 && made.starts_with("20") && made.ends_with('Z'), "{made}");
    let listed = catalog.functions("default").await.unwrap();
    assert_eq!((listed.len(), listed[0].version, listed[0].world.as_str()), (1, 3, "handler"));
    assert_eq!(listed[0].digest, hex::encode(Sha256::digest(b"three")));
}

#[tokio::test]
async fn aliases_move_and_go() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder).await;
    put(&catalog, "default", "echo", b"one").await;
    put(&catalog, "default", "echo", b"two").await;
    catalog.set_function_alias("default", "echo", "stable", 1).await.unwrap();
    assert_eq!(version(&catalog, "default", "echo@stable").await.unwrap(), 1);
    catalog.set_function_alias("default", "echo", "stable", 2).await.unwrap();
    assert_eq!(version(&catalog, "default", "echo@stable").await.unwrap(), 2);
    assert_eq!(catalog.function("default", "echo").await.unwrap().aliases["stable"], 2);
    for (alias, version, kind, part) in [
        ("stable", 3, Kind::NotFound, "no version 3; it has 2, 1"),
        ("stable", u64::MAX, Kind::NotFound, "no version"),
        ("3", 1, Kind::InvalidArgument, "means a version"),
        ("A", 1, Kind::InvalidArgument, "lowercase"),
    ] {
        let error = catalog.set_function_alias("default", "echo", alias, version).await.unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.message().contains(part), "{error}");
    }
    assert_eq!(version(&catalog, "default", "echo@stable").await.unwrap(), 2, "a refused change changes nothing");
    catalog.delete_function_alias("default", "echo", "stable").await.unwrap();
    assert_eq!(version(&catalog, "default", "echo@stable").await.unwrap_err().kind(), Kind::NotFound);
    let error = catalog.delete_function_alias("default", "echo", "stable").await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
}

#[tokio::test]
async fn what_is_missing_is_named_with_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder).await;
    put(&catalog, "default", "echo", b"one").await;
    catalog.set_function_alias("default", "echo", "stable", 1).await.unwrap();
    for (text, part) in [
        ("ech", "no function is called 'ech'"),
        ("ech@1", "no function is called 'ech'"),
        ("echo@2", "no version 2; it has 1"),
        ("echo@next", "no alias 'next'; it has stable"),
    ] {
        let error = version(&catalog, "default", text).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(error.message().contains(part), "{error}");
    }
    assert_eq!(catalog.function("default", "ech").await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(catalog.delete_function("default", "ech").await.unwrap_err().kind(), Kind::NotFound);
    let blob = blob(&catalog, b"x").await;
    let error = catalog.put_function("default", "../x", &blob, "handler", &json!({})).await.unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
}

#[tokio::test]
async fn tenants_see_only_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder).await;
    put(&catalog, "one", "echo", b"a").await;
    put(&catalog, "one", "echo", b"b").await;
    assert_eq!(put(&catalog, "two", "echo", b"b").await, Put { version: 1, created: true });
    assert_eq!(version(&catalog, "one", "echo").await.unwrap(), 2);
    assert_eq!(version(&catalog, "two", "echo").await.unwrap(), 1);
    assert_eq!(version(&catalog, "three", "echo").await.unwrap_err().kind(), Kind::NotFound);
    catalog.delete_function("one", "echo").await.unwrap();
    assert_eq!(version(&catalog, "one", "echo").await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(version(&catalog, "two", "echo").await.unwrap(), 1);
    assert_eq!(collect_now(&catalog).await, 1, "the blob of the other tenant stays");
    assert_eq!(blobs_there(&catalog), 1);
}

#[tokio::test]
async fn a_version_number_is_never_given_twice() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder).await;
    put(&catalog, "default", "echo", b"one").await;
    put(&catalog, "default", "echo", b"two").await;
    catalog.set_function_alias("default", "echo", "stable", 1).await.unwrap();
    catalog.delete_function("default", "echo").await.unwrap();
    assert!(catalog.functions("default").await.unwrap().is_empty());
    assert_eq!(put(&catalog, "default", "echo", b"one").await, Put { version: 3, created: true });
    let detail = catalog.function("default", "echo").await.unwrap();
    assert_eq!((detail.live, detail.versions.len(), detail.aliases.len()), (3, 1, 0));
    assert_eq!(version(&catalog, "default", "echo@1").await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn blobs_are_kept_while_something_refers_to_them_or_an_upload_holds_them() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder).await;
    let held = blob(&catalog, b"held").await;
    let again = blob(&catalog, b"held").await;
    assert_eq!((held.digest.as_str(), blobs_there(&catalog)), (again.digest.as_str(), 1));
    drop(again);
    put(&catalog, "default", "a", b"shared").await;
    put(&catalog, "default", "b", b"shared").await;
    catalog.delete_function("default", "a").await.unwrap();
    assert_eq!(collect_now(&catalog).await, 0);
    assert_eq!(blobs_there(&catalog), 2);
    catalog.delete_function("default", "b").await.unwrap();
    drop(held);
    assert_eq!(collect_now(&catalog).await, 2);
    assert_eq!(blobs_there(&catalog), 0);

    let mut given_up = catalog.begin_blob().await.unwrap();
    given_up.write(&vec![7; 3 << 20]).await.unwrap();
    assert_eq!(incoming(&catalog), 1);
    drop(given_up);
    assert_eq!(incoming(&catalog), 0);
}

#[tokio::test]
async fn an_upload_that_comes_while_its_blob_is_collected_keeps_it() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder).await;
    let digest = blob(&catalog, b"late").await.digest;
    let blobs = &catalog.inner.blobs;
    let doomed = blobs.doom(blobs.take_loose());
    assert_eq!(doomed, std::slice::from_ref(&digest));
    let late = blob(&catalog, b"late").await;
    assert!(!blobs.remove_doomed(&digest).unwrap());
    assert_eq!(std::fs::read(catalog.path(&late.digest)).unwrap(), b"late");
}

#[tokio::test]
async fn a_resolved_name_never_outlives_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder).await;
    let selector = Selector::parse("echo", &Limits::default()).unwrap();
    for round in 1..=20_u64 {
        let reader = tokio::spawn({
            let (catalog, selector) = (catalog.clone(), selector.clone());
            async move {
                for _ in 0..50 {
                    let _ = catalog.resolve_function("default", &selector).await;
                    tokio::task::yield_now().await;
                }
            }
        });
        let put = put(&catalog, "default", "echo", &round.to_le_bytes()).await;
        assert_eq!(catalog.resolve_function("default", &selector).await.unwrap().version, put.version);
        reader.await.unwrap();
        assert_eq!(catalog.resolve_function("default", &selector).await.unwrap().version, put.version);
    }
}

#[tokio::test]
async fn a_folder_serves_one_hearth_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder).await;
    let data = folder.path().join("data");
    assert_eq!(std::fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
    let error = Catalog::open(&data, &Limits::default(), Confined::here(), Clock::system()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    for part in [data.to_str().unwrap(), "--data", "another hearth"] {
        assert!(error.message().contains(part), "{error}");
    }
    put(&catalog, "default", "echo", b"one").await;
    let left = catalog.inner.blobs.folder.incoming().join("left");
    std::fs::write(&left, b"half an upload").unwrap();
    catalog.close().await;

    let catalog = open(&folder).await;
    assert!(!left.exists());
    assert_eq!(version(&catalog, "default", "echo").await.unwrap(), 1);
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, b"").unwrap();
    for data in [file.clone(), file.join("below"), "/proc/hearth".into()] {
        let error = Catalog::open(&data, &Limits::default(), Confined::here(), Clock::system()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::PermissionDenied, "{error}");
        assert!(error.message().contains(data.to_str().unwrap()) && error.message().contains("--data"), "{error}");
    }
}

#[tokio::test]
async fn a_catalog_of_a_newer_hearth_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder).await;
    let pool = catalog.inner.functions.pool.clone();
    sqlx::query("INSERT INTO schema_version VALUES (1000)").execute(&pool).await.unwrap();
    catalog.close().await;
    let error = Catalog::open(&folder.path().join("data"), &Limits::default(), Confined::here(), Clock::system())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(error.message().contains("newer hearth"), "{error}");
}

#[tokio::test]
async fn what_a_killed_process_left_is_collected() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = open(&folder).await;
    put(&catalog, "default", "echo", b"one").await;
    let digest = hex::encode(Sha256::digest(b"nobody's"));
    let stray = catalog.path(&digest);
    std::fs::write(&stray, b"nobody's").unwrap();
    catalog.close().await;
    let catalog = Catalog::open(&folder.path().join("data"), &Limits::default(), Confined::here(), Clock::system())
        .await
        .unwrap();
    for _ in 0..500 {
        if !stray.exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!stray.exists());
    assert_eq!(blobs_there(&catalog), 1);
    assert_eq!(version(&catalog, "default", "echo").await.unwrap(), 1);
}

const KILLED: &str = "HEARTH_TEST_KILLED_DATA";

/// The process that `what_was_acknowledged_survives_a_kill` kills.
#[tokio::test]
#[ignore = "a child process of what_was_acknowledged_survives_a_kill"]
async fn stores_until_it_is_killed() {
    let Ok(data) = std::env::var(KILLED) else { return };
    let catalog = Catalog::open(Path::new(&data), &Limits::default(), Confined::here(), Clock::system()).await.unwrap();
    let begin = std::process::id();
    println!("open");
    for count in 0.. {
        let body = format!("{begin} {count}").repeat(1 + count % 5 * 40_000);
        let name = format!("f{}", count % 7);
        let blob = blob(&catalog, body.as_bytes()).await;
        let put = catalog.put_function("default", &name, &blob, "handler", &json!(null)).await.unwrap();
        println!("put {name}@{} {}", put.version, blob.digest);
        if count % 11 == 10 {
            catalog.delete_function("default", &name).await.unwrap();
            println!("delete {name}");
        }
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut expected = std::collections::BTreeMap::new();
    for round in 0..8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "catalog::tests::stores_until_it_is_killed", "--ignored", "--nocapture"])
            .env(KILLED, &data)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(std::io::Result::ok);
        let mut seen = Vec::new();
        for line in lines.by_ref() {
            seen.push(line);
            if seen.len() > 20 + round * 7 {
                break;
            }
        }
        std::thread::sleep(Duration::from_millis(round as u64 * 3));
        child.kill().unwrap();
        child.wait().unwrap();
        seen.extend(lines);
        assert!(seen.iter().any(|line| line.starts_with("put ")), "round {round}: the child stored nothing: {seen:?}");
        for line in &seen {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["put", name, digest] => drop(expected.insert(name.to_owned(), digest.to_owned())),
                ["delete", name] => expected.retain(|known, _| !known.starts_with(&format!("{name}@"))),
                _ => {}
            }
        }
        let catalog = Catalog::open(&data, &Limits::default(), Confined::here(), Clock::system()).await.unwrap();
        let mut missing = 0;
        for (name, digest) in &expected {
            let selector = Selector::parse(name, &Limits::default()).unwrap();
            let Ok(found) = catalog.resolve_function("default", &selector).await else {
                // The last deletion may have been stored and not acknowledged.
                missing += 1;
                continue;
            };
            assert_eq!(&found.digest, digest);
            let stored = std::fs::read(catalog.path(digest)).unwrap();
            assert_eq!(&hex::encode(Sha256::digest(&stored)), digest);
        }
        if missing > 0 {
            let names: Vec<_> = catalog.functions("default").await.unwrap().into_iter().map(|one| one.name).collect();
            let before = expected.len();
            expected.retain(|known, _| names.iter().any(|name| known.starts_with(&format!("{name}@"))));
            assert_eq!(before - expected.len(), missing, "only a whole name may be missing");
        }
        assert_eq!(incoming(&catalog), 0);
        catalog.close().await;
    }
}
