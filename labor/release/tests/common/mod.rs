//! Archives, packages and keys for the tests.
#![allow(dead_code)] // each test binary uses its part

use std::path::Path;

use overseer_release::{
    Digest, INDEX_FORMAT, Index, IndexChunk, MAX_CHUNK, Manifest, ReleaseBuilder, SigningKey, StoredChunk,
    Trust, UnpackError, Verified, unpack, verify,
};
use semver::Version;
use tar::{EntryType, Header};

pub(crate) fn key() -> SigningKey {
    SigningKey::from_seed(&[7; 32])
}

pub(crate) fn trust() -> Trust {
    Trust::keys(vec![key().public()])
}

pub(crate) fn manifest() -> Manifest {
    Manifest::plugin("hello", Version::new(1, 0, 0), "libhello.so")
}

/// Bytes that look random and are the same every time.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

/// A tar made entry by entry, good or bad.
pub(crate) struct TarMaker(tar::Builder<Vec<u8>>);

impl TarMaker {
    pub(crate) fn empty() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    /// With what the manifest needs.
    pub(crate) fn good() -> Self {
        Self::empty()
            .file("libhello.so", b"library")
            .file("release.toml", manifest().to_toml().unwrap().as_bytes())
    }

    /// The name is written as given: the tar crate would refuse the bad ones.
    pub(crate) fn entry(self, kind: EntryType, name: &[u8], link: &[u8], content: &[u8]) -> Self {
        self.sized_entry(kind, name, link, content, content.len() as u64)
    }

    pub(crate) fn sized_entry(
        mut self,
        kind: EntryType,
        name: &[u8],
        link: &[u8],
        content: &[u8],
        size: u64,
    ) -> Self {
        let mut header = Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name);
        header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(size);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(EntryType::Regular, name.as_bytes(), b"", content)
    }

    pub(crate) fn directory(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name.as_bytes(), b"", b"")
    }

    pub(crate) fn link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name.as_bytes(), target.as_bytes(), b"")
    }

    pub(crate) fn with_mode(mut self, name: &str, mode: u32) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(mode);
        header.set_size(1);
        self.0.append_data(&mut header, name, &b"x"[..]).unwrap();
        self
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// An index whose digests are right for this archive, whatever is in it.
pub(crate) fn index_of(tar: &[u8]) -> Index {
    let chunks = tar.chunks(MAX_CHUNK);
    let chunks = chunks.map(|raw| IndexChunk { digest: Digest::of(raw), size: raw.len() as u32 });
    Index {
        format: INDEX_FORMAT,
        manifest: manifest(),
        size: tar.len() as u64,
        digest: Digest::of(tar),
        chunks: chunks.collect(),
    }
}

pub(crate) fn verified(index: &Index, trust: &Trust) -> Verified {
    let bytes = index.to_bytes();
    verify(&bytes, &[key().sign(&bytes)], trust).unwrap()
}

pub(crate) fn unpack_tar(tar: &[u8], target: &Path) -> Result<(), UnpackError> {
    let chunk =
        |at: usize| StoredChunk { zstd: false, data: tar.chunks(MAX_CHUNK).nth(at).unwrap().to_vec() };
    unpack(&verified(&index_of(tar), &trust()), |at| Ok(chunk(at)), target)
}

/// A small signed package in `dir`.
pub(crate) fn small_package(dir: &Path) -> std::path::PathBuf {
    let library = dir.join("libhello.so");
    std::fs::write(&library, noise(300)).unwrap();
    let builder = ReleaseBuilder::plugin("hello", "1.0.0", &library).sign(&key());
    builder.write(&dir.join("hello.release")).unwrap().path
}

/// Names in a directory, sorted.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
