//! What may have happened to a signed file, and that none of it is taken; the caches of components, prepared forms and kernels
//! are tested with the same table.

use super::*;
use sha2::Digest;

/// Damages of a file: what happened, and what the file holds then. `other` is a file of the same kind and node under another
/// name, `strangers` the file that another node signed under this name.
pub(crate) fn damages(whole: &[u8], other: &[u8], strangers: &[u8]) -> Vec<(String, Vec<u8>)> {
    let (bytes, content) = (whole.len(), &whole[TAG_BYTES..]);
    let mut damages = Vec::new();
    for at in [0, TAG_BYTES - 1, TAG_BYTES, bytes / 2, bytes - 1] {
        let mut flipped = whole.to_vec();
        flipped[at] ^= 1 << (at % 8);
        damages.push((format!("a flipped bit of byte {at}"), flipped));
    }
    for kept in [0, 1, TAG_BYTES - 1, TAG_BYTES, bytes / 2, bytes - 1] {
        damages.push((format!("cut to {kept} bytes"), whole[..kept].to_vec()));
    }
    let with = |damage: &str, bytes: Vec<u8>| (damage.to_owned(), bytes);
    damages.extend([
        with("a byte more", [whole, &[0]].concat()),
        with("twice", whole.repeat(2)),
        with("another name's file", other.to_vec()),
        with("the tag of another name", [&other[..TAG_BYTES], content].concat()),
        with("the content of another name", [&whole[..TAG_BYTES], &other[TAG_BYTES..], b"!"].concat()),
        with("another node's file", strangers.to_vec()),
        with("no tag", content.to_vec()),
        with("a tag of zeros", [&[0; TAG_BYTES], content].concat()),
        with("a SHA-256 before the content", [&Sha256::digest(content)[..], content].concat()),
        with("a SHA-256 behind the content", [content, &Sha256::digest(content)[..]].concat()),
    ]);
    damages.retain(|(_, damaged)| damaged != whole);
    damages
}

const KINDS: [Kind; 3] = [Kind::Component, Kind::Prepared, Kind::Kernel];

fn key(data: &Path) -> NodeKey {
    fs::create_dir_all(data).unwrap();
    NodeKey::open(data).unwrap()
}

fn opened(data: &Path, kind: Kind) -> SignedCache {
    SignedCache::open(data.join("files"), ".kept", Signer::new(&key(data), kind)).unwrap()
}

#[test]
fn only_what_this_node_signed_for_kind_and_name_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    for kind in KINDS {
        let (own, strange) = (folder.path().join(format!("{kind:?}")), folder.path().join(format!("strange-{kind:?}")));
        let (cache, stranger) = (opened(&own, kind), opened(&strange, kind));
        assert!(cache.load("aa").is_none(), "nothing is there");
        cache.keep("aa", &[b"content", b" in ", b"parts"]);
        cache.keep("bb", &[b"content in parts"]);
        stranger.keep("aa", &[b"content in parts"]);
        let content = |name: &str| cache.load(name).map(|verified| verified.content().to_vec());
        assert_eq!(content("aa").unwrap(), b"content in parts");
        assert_eq!((content("bb"), content("cc")), (content("aa"), None));

        let bytes = |cache: &SignedCache, name: &str| fs::read(cache.path(name)).unwrap();
        let whole = bytes(&cache, "aa");
        let mut damages = damages(&whole, &bytes(&cache, "bb"), &bytes(&stranger, "aa"));
        for other in KINDS.into_iter().filter(|other| *other != kind) {
            let path = own.join("other");
            Signer::new(&key(&own), other).write(&path, "aa", &[b"content in parts"]).unwrap();
            damages.push((format!("signed as {other}"), fs::read(path).unwrap()));
        }
        assert!(damages.len() > 20, "{}", damages.len());
        for (what, damaged) in damages {
            fs::write(cache.path("aa"), damaged).unwrap();
            assert!(cache.load("aa").is_none(), "{kind:?}: {what}");
            cache.keep("aa", &[b"content in parts"]);
            assert!(bytes(&cache, "aa") == whole, "{kind:?}: {what}: it was replaced");
        }
        // A folder in its place can neither be read nor replaced, and stops nothing.
        fs::remove_file(cache.path("aa")).unwrap();
        fs::create_dir(cache.path("aa")).unwrap();
        cache.keep("aa", &[b"content in parts"]);
        assert!(cache.load("aa").is_none() && cache.load("bb").is_some());
    }
}

/// Data folders hold files that were signed so. These tags were computed with Python's `hmac`.
#[test]
fn files_of_earlier_versions_verify() {
    let data = tempfile::tempdir().unwrap();
    fs::write(data.path().join("node.key"), (0..32).collect::<Vec<u8>>()).unwrap();
    let tags = [
        "e6ce8a4d39291ec7de757bc4cefb7284d96be6447f5f35aed54981711deee3aa",
        "9f631b49d583727b83c67f4ab174fbc4d48ef965a5261ff2569c2ead19aaba2f",
        "6581c82752425538b57235a3f351779f065512f14785f9b274143124887a790c",
    ];
    for (kind, tag) in KINDS.into_iter().zip(tags) {
        let (signer, path) = (Signer::new(&key(data.path()), kind), data.path().join("file"));
        fs::write(&path, [&hex::decode(tag).unwrap()[..], b"content"].concat()).unwrap();
        assert_eq!(signer.read(&path, "aa-0f").unwrap().content(), b"content", "{kind:?}");
        let before = fs::read(&path).unwrap();
        signer.write(&path, "aa-0f", &[b"content"]).unwrap();
        assert!(fs::read(&path).unwrap() == before, "{kind:?}");
    }
}

#[test]
fn names_that_could_mean_another_kind_or_place_are_refused() {
    let data = tempfile::tempdir().unwrap();
    for kind in KINDS {
        let signer = Signer::new(&key(data.path()), kind);
        for name in ["", "a/b", "../aa", "a\0b", "a b", "prepared model aa"] {
            let error = signer.write(&data.path().join("file"), name, &[b"content"]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{kind:?} {name:?}");
            assert!(!data.path().join("file").exists());
        }
    }
    let component = Signer::new(&key(data.path()), Kind::Component);
    for name in ["kernel", "prepared", "AA", "aa.bb"] {
        assert!(component.write(&data.path().join("file"), name, &[]).is_err(), "{name}");
    }
}

#[test]
fn folders_and_files_are_for_this_user_alone() {
    let data = tempfile::tempdir().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    // As version 0.1 left the folder of kernels.
    let folder = data.path().join("files");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
    let cache = opened(data.path(), Kind::Kernel);
    cache.keep("aa", &[b"content"]);
    assert_eq!((mode(&folder), mode(&cache.path("aa"))), (0o700, 0o600));
    // One that anybody could read is replaced by one that nobody else can.
    fs::set_permissions(cache.path("aa"), Permissions::from_mode(0o644)).unwrap();
    cache.keep("aa", &[b"content"]);
    assert_eq!(mode(&cache.path("aa")), 0o600);
}

#[test]
fn entries_are_listed_and_go_oldest_first_and_leftovers_go_at_the_start() {
    let data = tempfile::tempdir().unwrap();
    let cache = opened(data.path(), Kind::Component);
    for (age, name) in ["aa", "aa-1", "aa-2", "bb"].into_iter().enumerate() {
        cache.keep(name, &[b"content"]);
        let file = fs::File::open(cache.path(name)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000 + age as u64)).unwrap();
    }
    let left = [".tmpAbc", "aa.partial-7", "aa.other"].map(|name| cache.folder().join(name));
    left.iter().for_each(|path| fs::write(path, b"half").unwrap());
    let names = |cache: &SignedCache| {
        let mut names = cache.names().unwrap();
        names.sort();
        names
    };
    assert_eq!(names(&cache), ["aa", "aa-1", "aa-2", "bb"]);
    let cache = opened(data.path(), Kind::Component);
    assert!(left.iter().all(|path| !path.exists()));
    cache.remove("aa", 2);
    assert_eq!(names(&cache), ["aa-1", "aa-2", "bb"]);
    cache.remove("aa", 0);
    assert_eq!(names(&cache), ["bb"]);
    cache.remove("bb", 0);
    cache.remove("bb", 0);
    assert!(names(&cache).is_empty());
}
