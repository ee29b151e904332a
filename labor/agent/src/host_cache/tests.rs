use std::time::Duration;

use overseer_release::{ChunkDecoder, Digest, INDEX_FORMAT, Index, Manifest, StoredChunk};
use tempfile::TempDir;

use super::*;

/// Raw bytes of each chunk.
const SIZE: usize = 10_000;

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

/// One that cannot be compressed.
fn chunk(number: u8) -> (IndexChunk, StoredChunk) {
    let mut data = vec![0; SIZE];
    blake3::Hasher::new().update(&[number]).finalize_xof().fill(&mut data);
    (IndexChunk { digest: Digest::of(&data), size: SIZE as u32 }, StoredChunk { zstd: false, data })
}

/// A release of these chunks, as it is signed.
struct Release {
    id: ReleaseId,
    reply: proto::ReleaseIndexReply,
    chunks: Vec<IndexChunk>,
}

fn release(numbers: &[u8]) -> Release {
    let chunks: Vec<IndexChunk> = numbers.iter().map(|number| chunk(*number).0).collect();
    let index = Index {
        format: INDEX_FORMAT,
        manifest: Manifest::plugin("hello", "1.0.0".parse().unwrap(), "libhello.so"),
        size: (chunks.len() * SIZE) as u64,
        digest: Digest::of(b"whatever"),
        chunks: chunks.clone(),
    };
    let reply = proto::ReleaseIndexReply { index: index.to_bytes().into(), signatures: vec![] };
    Release { id: ReleaseId::of_index(&reply.index), reply, chunks }
}

impl Release {
    fn keep(&self, cache: &HostCache) -> io::Result<Kept> {
        cache.keep(self.id, &self.reply, &self.chunks)
    }
}

/// Keeps a release whole.
fn put(cache: &HostCache, numbers: &[u8]) -> Release {
    let release = release(numbers);
    let kept = release.keep(cache).unwrap();
    for (position, number) in numbers.iter().enumerate() {
        assert!(kept.write(position, &chunk(*number).1).unwrap());
        kept.keep(position, SIZE as u32).unwrap();
    }
    release
}

/// As if it was used so long ago.
fn age(path: &Path, seconds: u64) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
}

fn files(cache: &HostCache) -> usize {
    fs::read_dir(&cache.releases).unwrap().count()
}

#[test]
fn a_chunk_is_found_once_it_is_kept_and_comes_back_as_it_was() {
    let (cache, directory) = cache(1 << 20);
    let release = release(&[1, 2, 3]);
    let kept = release.keep(&cache).unwrap();
    assert!(kept.present().unwrap().is_empty() && kept.read(0).is_err());
    // Out of order, by two agents.
    assert!(kept.write(2, &chunk(3).1).unwrap());
    assert!(kept.read(2).is_err(), "it is not verified");
    kept.keep(2, SIZE as u32).unwrap();
    let other = again(&directory, 1 << 20).find(release.id).unwrap();
    assert_eq!(other.reply(), &release.reply);
    let frame = StoredChunk { zstd: true, data: vec![1, 2, 3] };
    assert!(other.write(0, &frame).unwrap());
    other.keep(0, 3).unwrap();
    assert_eq!(kept.read(2).unwrap(), chunk(3).1);
    assert_eq!(kept.read(0).unwrap(), frame);
    assert!(!kept.write(0, &frame).unwrap(), "it is there");
    let there: Vec<bool> =
        release.chunks.iter().map(|chunk| kept.present().unwrap().contains_key(&chunk.digest)).collect();
    assert_eq!(there, [true, false, true]);
    // What cannot be the chunk is not written over the next one.
    let long = StoredChunk { zstd: false, data: vec![0; SIZE + 1] };
    assert!(!kept.write(1, &long).unwrap() && kept.write(3, &frame).is_err());
    assert_eq!(kept.read(2).unwrap(), chunk(3).1);
}

#[test]
fn a_chunk_that_is_damaged_can_be_forgotten_and_written_again() {
    let (cache, _directory) = cache(1 << 20);
    let release = put(&cache, &[1, 2]);
    let path = cache.path(release.id);
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    let kept = cache.find(release.id).unwrap();
    let mut decoder = ChunkDecoder::new().unwrap();
    decoder.decode(0, &release.chunks[0], kept.read(0).unwrap()).unwrap();
    assert!(decoder.decode(1, &release.chunks[1], kept.read(1).unwrap()).is_err());
    kept.forget(1).unwrap();
    assert!(kept.read(1).is_err());
    assert!(kept.write(1, &chunk(2).1).unwrap());
    kept.keep(1, SIZE as u32).unwrap();
    assert_eq!(kept.read(1).unwrap(), chunk(2).1);
}

#[test]
fn what_is_no_such_file_is_not_taken_for_one_and_is_made_anew() {
    let (cache, directory) = cache(1 << 20);
    let release = put(&cache, &[1, 2]);
    let path = cache.path(release.id);
    let good = fs::read(&path).unwrap();
    let other = put(&cache, &[3]);
    let of_other = fs::read(cache.path(other.id)).unwrap();
    let endless = [&good[..8], &[0xff; 8], &good[16..]].concat();
    for content in
        [&b""[..], b"OVRKEPT1", b"something else that is longer", &endless, &good[..100], &of_other]
    {
        fs::write(&path, content).unwrap();
        assert!(cache.find(release.id).is_none());
        let made = release.keep(&cache).unwrap();
        assert!(made.present().unwrap().is_empty());
        assert_eq!(cache.find(release.id).unwrap().reply(), &release.reply);
    }
    // Cut where the chunks are.
    fs::write(&path, &good[..good.len() - 1]).unwrap();
    let kept = cache.find(release.id).unwrap();
    assert!(kept.read(0).is_ok() && kept.read(1).is_err());

    let elsewhere = directory.path().join("elsewhere");
    fs::write(&elsewhere, &good).unwrap();
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    assert!(cache.find(release.id).is_none(), "a link");
    fs::remove_file(&path).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &path, fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    assert!(cache.find(release.id).is_none(), "a pipe that nobody writes");
    release.keep(&cache).unwrap();

    // Signed by somebody else.
    let signature = proto::Signature { key: vec![1; 32].into(), signature: vec![2; 64].into() };
    let signed = proto::ReleaseIndexReply { signatures: vec![signature], ..release.reply };
    drop(cache.keep(release.id, &signed, &release.chunks).unwrap());
    assert_eq!(cache.find(release.id).unwrap().reply(), &signed);
    assert_eq!(files(&cache), 2, "and nothing beside them");
}

#[test]
fn what_was_used_longest_ago_goes_first_and_only_as_much_as_is_over_the_quota() {
    // Each takes five or six pages on the disk.
    let (cache, _directory) = cache(3 * 24_576);
    let all: Vec<Release> = (0..5).map(|n| put(&cache, &[n, 10])).collect();
    for (release, seconds) in all.iter().zip([500, 400, 300, 200, 100]) {
        age(&cache.path(release.id), seconds);
    }
    cache.find(all[0].id).unwrap();
    let others: Vec<_> = cache.others(all[0].id).map(|kept| kept.reply().clone()).collect();
    let expected: Vec<_> = [4, 3, 2, 1].map(|n: usize| all[n].reply.clone()).into();
    assert!(others == expected, "the last one comes first");
    let left = || all.iter().map(|release| cache.path(release.id).exists()).collect::<Vec<_>>();
    cache.evict_surplus();
    assert_eq!(left(), [true, false, false, true, true], "the first was used just now, the others looked at");
    cache.evict_surplus();
    assert_eq!(files(&cache), 3);
}

#[test]
fn what_an_agent_runs_stays_whatever_the_quota_and_goes_when_no_agent_does() {
    let (cache, directory) = cache(1);
    let (runs, other) = (put(&cache, &[1, 2]), put(&cache, &[3]));
    let in_use = again(&directory, 1).find(runs.id).unwrap().in_use();
    let also = cache.find(runs.id).unwrap().in_use();
    let left = || [runs.id, other.id].map(|id| cache.path(id).exists());
    cache.evict_surplus();
    assert_eq!(left(), [true, false]);
    drop(in_use);
    cache.evict_surplus();
    assert_eq!(left(), [true, false], "one of two");
    drop(also);
    cache.evict_surplus();
    assert_eq!(left(), [false, false]);
}

#[test]
fn a_file_that_is_evicted_while_it_is_taken_up_is_made_anew() {
    let (cache, directory) = cache(1);
    let release = release(&[1]);
    let evicting = std::thread::spawn({
        let other = again(&directory, 1);
        move || (0..300).for_each(|_| other.evict_surplus())
    });
    for _ in 0..300 {
        let Ok(kept) = release.keep(&cache) else { continue };
        assert!(cache.path(release.id).exists(), "it is there for as long as it is in use");
        drop(kept);
    }
    evicting.join().unwrap();
    let _kept = release.keep(&cache).unwrap();
    cache.evict_surplus();
    assert!(cache.find(release.id).is_some());
}

#[test]
fn what_a_killed_agent_left_half_made_goes_and_what_another_one_makes_stays() {
    let (cache, _directory) = cache(1 << 20);
    let (killed, makes) = (cache.aside(), cache.aside());
    fs::write(&killed, b"half").unwrap();
    fs::write(&makes, b"half").unwrap();
    age(&killed, 2 * 3600);
    cache.evict_surplus();
    assert!(!killed.exists() && makes.exists());
    assert_eq!(cache.others(release(&[1]).id).count(), 0);
}

#[test]
fn nothing_of_others_is_evicted_and_one_agent_does_it_at_a_time() {
    let (cache, _directory) = cache(1);
    let note = cache.releases.join("README");
    fs::write(&note, "somebody's").unwrap();
    fs::create_dir(cache.releases.join("0".repeat(64))).unwrap();
    put(&cache, &[1]);
    let lock = File::create(cache.root.join("eviction")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    cache.evict_surplus();
    assert_eq!(files(&cache), 3);
    drop(lock);
    cache.evict_surplus();
    assert_eq!(files(&cache), 2);
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
    let directory = tempfile::tempdir().unwrap();
    let told = |told: &ReleaseCache, own| HostCache::open(told, own).unwrap().map(|cache| cache.root);
    assert_eq!(told(&ReleaseCache::none(), Some(directory.path())), None);
    assert_eq!(told(&ReleaseCache::default(), None), None);
    let own = Some(directory.path());
    assert_eq!(told(&ReleaseCache::default(), own), Some(directory.path().join("cache")));
    let mode = fs::metadata(directory.path().join("cache/releases")).unwrap().mode();
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
    assert_eq!(fs::read_dir(&other).unwrap().count(), 0);
}
