//! A disk that is small, can be full and can be read-only. Only root can mount one.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small disk of its own, gone when this is dropped.
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// One of so many KiB at this path, where nothing is yet. None where it cannot be had: then
    /// the test has been said to be ignored.
    ///
    /// # Panics
    /// Where it cannot be had and `REQUIRE_PARTS` asks for it.
    pub fn mount(path: PathBuf, kib: u32) -> Option<Self> {
        fs::create_dir(&path).unwrap();
        let size = format!("size={kib}k,mode=700");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(&path).output();
        if mount.is_ok_and(|mount| mount.status.success()) {
            return Some(Self { path });
        }
        assert!(std::env::var_os("REQUIRE_PARTS").is_none(), "root is missing, which REQUIRE_PARTS asks for");
        eprintln!("ignored: only root can mount a small disk");
        None
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves so many KiB free, of what is free now.
    pub fn fill(&self, left: usize) {
        let room = self.path.join("room");
        fs::write(&room, vec![0; left << 10]).unwrap();
        let mut filler = OpenOptions::new().append(true).create(true).open(self.filler()).unwrap();
        let full = loop {
            match filler.write_all(&[0; 4096]) {
                Ok(()) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), ErrorKind::StorageFull);
        fs::remove_file(room).unwrap();
    }

    /// Takes back what [`SmallDisk::fill`] did.
    pub fn make_room(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    /// Nothing on it can be changed any more.
    pub fn make_read_only(&self) {
        let status = Command::new("mount").args(["-o", "remount,ro"]).arg(&self.path).status().unwrap();
        assert!(status.success());
    }

    /// The names of what is on it, but for what fills it; sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.path).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name != FILLER).collect();
        names.sort();
        names
    }

    fn filler(&self) -> PathBuf {
        self.path.join(FILLER)
    }
}

const FILLER: &str = "filler";

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, for a test that fails may leave something running on it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}
