use overseer_protocol::{ReleaseId, proto};
use overseer_release::{ChunkDecoder, INDEX_FORMAT, Index, Manifest};
use tempfile::TempDir;

use super::*;

/// A cache in a directory of its own.
fn cache(quota: u64) -> (HostCache, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    (again(&directory, quota), directory)
}

/// Another agent's.
fn again(directory: &TempDir, quota: u64) -> HostCache {
    let told = ReleaseCache::at(directory.path().join("cache")).quota(quota);
    HostCache::open(&told, None).unwrap().unwrap()
}

/// A thousand bytes that cannot be compressed.
fn chunk(number: u8) -> (IndexChunk, StoredChunk) {
    let mut data = vec![0; 1000];
    blake3::Hasher::new().update(&[number]).finalize_xof().fill(&mut data);
    (IndexChunk { digest: Digest::of(&data), size: 1000 }, StoredChunk { zstd: false, data })
}

fn put(cache: &HostCache, number: u8) -> IndexChunk {
    let (declared, stored) = chunk(number);
    if let Some(partial) = cache.write(&declared, &stored).unwrap() {
        cache.keep(partial).unwrap();
    }
    declared
}

/// As if it was used so long ago.
fn age(path: &Path, seconds: u64) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
}

/// What is signed of a release of these chunks.
fn release(chunks: &[IndexChunk]) -> (ReleaseId, proto::ReleaseIndexReply) {
    let index = Index {
        format: INDEX_FORMAT,
        manifest: Manifest::plugin("hello", "1.0.0".parse().unwrap(), "libhello.so"),
        size: chunks.iter().map(|chunk| u64::from(chunk.size)).sum(),
        digest: Digest::of(b"whatever"),
        chunks: chunks.to_vec(),
    };
    let reply = proto::ReleaseIndexReply { index: index.to_bytes().into(), signatures: vec![] };
    (ReleaseId::of_index(&reply.index), reply)
}

fn files(directory: &Path) -> usize {
    fs::read_dir(directory).unwrap().count()
}

#[test]
fn a_chunk_is_found_once_it_is_kept_and_comes_back_as_it_was() {
    let (cache, _directory) = cache(1 << 20);
    let (declared, stored) = chunk(1);
    let partial = cache.write(&declared, &stored).unwrap().unwrap();
    assert!(!cache.has(&declared) && cache.read(&declared).is_err());
    cache.keep(partial).unwrap();
    assert_eq!(cache.read(&declared).unwrap(), stored);
    assert!(cache.write(&declared, &stored).unwrap().is_none(), "it is there");
    let refused = cache.write(&chunk(2).0, &chunk(2).1).unwrap().unwrap();
    cache.forget(refused);
    assert_eq!(files(&cache.chunks), 1);

    let raw = vec![7; 1000];
    let declared = IndexChunk { digest: Digest::of(&raw), size: 1000 };
    let frame = StoredChunk { zstd: true, data: vec![1, 2, 3] };
    cache.keep(cache.write(&declared, &frame).unwrap().unwrap()).unwrap();
    assert_eq!(cache.read(&declared).unwrap(), frame);
}

#[test]
fn what_is_no_such_chunk_is_not_taken_for_one() {
    let (cache, directory) = cache(1 << 20);
    let declared = put(&cache, 1);
    let path = cache.chunk(&declared.digest);
    fs::write(&path, vec![9; 1000]).unwrap();
    let damaged = cache.read(&declared).unwrap();
    assert!(ChunkDecoder::new().unwrap().decode(0, &declared, damaged).is_err());
    cache.remove(&declared.digest);
    assert!(!path.exists());

    for length in [0, 1001] {
        fs::write(&path, vec![9; length]).unwrap();
        assert!(!cache.has(&declared) && cache.read(&declared).is_err(), "{length}");
    }
    fs::remove_file(&path).unwrap();
    let elsewhere = directory.path().join("elsewhere");
    fs::write(&elsewhere, chunk(1).1.data).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    assert!(!cache.has(&declared) && cache.read(&declared).is_err(), "a link");
    fs::remove_file(&path).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    assert!(!cache.has(&declared) && cache.read(&declared).is_err(), "a pipe that nobody writes");
}

#[test]
fn what_was_used_longest_ago_goes_first_and_only_as_much_as_is_over_the_quota() {
    let (cache, _directory) = cache(3000);
    let chunks: Vec<IndexChunk> = (0..5).map(|n| put(&cache, n)).collect();
    for (chunk, seconds) in chunks.iter().zip([500, 400, 300, 200, 100]) {
        age(&cache.chunk(&chunk.digest), seconds);
    }
    cache.read(&chunks[0]).unwrap();
    cache.evict_surplus();
    let left: Vec<bool> = chunks.iter().map(|chunk| cache.has(chunk)).collect();
    assert_eq!(left, [true, false, false, true, true], "the first was used just now");
    cache.evict_surplus();
    assert_eq!(files(&cache.chunks), 3);
}

#[test]
fn what_an_agent_runs_stays_whatever_the_quota_and_goes_when_no_agent_does() {
    let (cache, directory) = cache(1000);
    let chunks: Vec<IndexChunk> = (0..4).map(|n| put(&cache, n)).collect();
    let (id, reply) = release(&chunks[..3]);
    let other = again(&directory, 1000);
    let in_use = other.keep_index(id, &reply).unwrap();
    let also = cache.index(id).unwrap().1;
    cache.evict_surplus();
    let has = |cache: &HostCache| chunks.iter().map(|chunk| cache.has(chunk)).collect::<Vec<_>>();
    assert_eq!(has(&cache), [true, true, true, false]);
    drop(in_use);
    cache.evict_surplus();
    assert_eq!(has(&cache), [true, true, true, false], "one of two");
    drop(also);
    cache.evict_surplus();
    assert!(has(&cache).iter().filter(|has| **has).count() <= 1);
}

#[test]
fn an_index_is_kept_for_the_next_agent_and_never_believed() {
    let (cache, _directory) = cache(1 << 20);
    assert!(cache.is_empty());
    let (id, reply) = release(&[chunk(1).0]);
    drop(cache.keep_index(id, &reply).unwrap());
    assert!(!cache.is_empty());
    assert_eq!(cache.index(id).unwrap().0, reply);
    let (other, _) = release(&[chunk(2).0]);
    assert!(cache.index(other).is_none());

    // Cut, of another release, or signed by somebody else: it is written anew.
    let path = cache.index_path(id);
    let (_, wrong) = release(&[chunk(3).0]);
    let bytes = prost::Message::encode_to_vec(&wrong);
    for content in [&b""[..], b"\xff", &bytes] {
        fs::write(&path, content).unwrap();
        assert!(cache.index(id).is_none());
        drop(cache.keep_index(id, &reply).unwrap());
        assert_eq!(cache.index(id).unwrap().0, reply);
    }
    let signature = proto::Signature { key: vec![1; 32].into(), signature: vec![2; 64].into() };
    let signed = proto::ReleaseIndexReply { signatures: vec![signature], ..reply };
    drop(cache.keep_index(id, &signed).unwrap());
    assert_eq!(cache.index(id).unwrap().0, signed);
    assert_eq!(files(&cache.indexes), 1);
}

#[test]
fn an_index_that_is_evicted_while_it_is_taken_up_is_written_anew() {
    let (cache, directory) = cache(1);
    let (id, reply) = release(&[chunk(1).0]);
    let evicting = std::thread::spawn({
        let other = again(&directory, 1);
        move || (0..300).for_each(|_| other.evict_surplus())
    });
    for _ in 0..300 {
        let Ok(in_use) = cache.keep_index(id, &reply) else { continue };
        assert!(cache.index_path(id).exists(), "it is there for as long as it is in use");
        drop(in_use);
    }
    evicting.join().unwrap();
    let _in_use = cache.keep_index(id, &reply).unwrap();
    cache.evict_surplus();
    assert!(cache.index(id).is_some());
}

#[test]
fn what_a_killed_agent_left_half_written_goes_and_what_another_one_writes_stays() {
    let (cache, _directory) = cache(1 << 20);
    let (declared, stored) = chunk(1);
    let killed = cache.write(&declared, &stored).unwrap().unwrap();
    let writes = cache.write(&declared, &stored).unwrap().unwrap();
    age(&killed.from, 2 * 3600);
    cache.evict_surplus();
    assert!(!killed.from.exists());
    cache.keep(writes).unwrap();
    assert!(cache.has(&declared));
}

#[test]
fn nothing_of_others_is_evicted_and_one_agent_does_it_at_a_time() {
    let (cache, _directory) = cache(1);
    let note = cache.chunks.join("README");
    fs::write(&note, "somebody's").unwrap();
    fs::create_dir(cache.chunks.join("0".repeat(64))).unwrap();
    put(&cache, 1);
    let lock = File::create(cache.root.join("eviction")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    cache.evict_surplus();
    assert_eq!(files(&cache.chunks), 3);
    drop(lock);
    cache.evict_surplus();
    assert_eq!(files(&cache.chunks), 2);
    assert!(note.exists());
}

#[test]
fn a_release_over_the_quota_is_not_kept() {
    let (cache, _directory) = cache(1000);
    let error = cache.make_room(1001).unwrap_err();
    assert!(error.to_string().contains("quota of 1000"), "{error}");
    let error = cache.make_room(1000).err().map(|error| error.to_string());
    assert!(error.is_none_or(|error| error.contains("almost full")));
}

#[test]
fn a_place_that_cannot_be_used_is_said_by_name_and_no_quota_is_no_cache() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, b"").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = HostCache::open(&ReleaseCache::at(&path), None).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()) && error.contains("--cache"), "{error}");
    }
    let told = |told: &ReleaseCache, own| HostCache::open(told, own).unwrap().map(|cache| cache.root);
    assert_eq!(told(&ReleaseCache::none(), Some(directory.path())), None);
    assert_eq!(told(&ReleaseCache::default(), None), None);
    let own = Some(directory.path());
    assert_eq!(told(&ReleaseCache::default(), own), Some(directory.path().join("cache")));
    let mode = fs::metadata(directory.path().join("cache/chunks")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn another_users_cache_is_not_touched() {
    let directory = tempfile::tempdir().unwrap();
    let other = directory.path().join("other");
    fs::create_dir(&other).unwrap();
    // Only root can give it away; for others `/` is another user's.
    let place = match std::os::unix::fs::chown(&other, Some(4711), None) {
        Ok(()) => other.clone(),
        Err(_) => PathBuf::from("/"),
    };
    let error = HostCache::open(&ReleaseCache::at(&place), None).unwrap_err();
    assert!(matches!(error, HostCacheError::Foreign { .. }), "{error}");
    assert_eq!(files(&other), 0);
}
