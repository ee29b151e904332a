//! What the Overseer's own log says, for tests that look whether a refusal was written down.

use std::io;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tracing_subscriber::fmt::MakeWriter;

/// Everything that was logged in this process since [`listen`].
#[derive(Clone, Default)]
pub struct Written(Arc<Mutex<Vec<u8>>>);

/// Listens from the first call on.
pub fn listen() -> Written {
    static WRITTEN: OnceLock<Written> = OnceLock::new();
    let start = || {
        let written = Written::default();
        tracing_subscriber::fmt()
            .with_env_filter("overseer=debug")
            .with_ansi(false)
            .with_writer(written.clone())
            .init();
        written
    };
    WRITTEN.get_or_init(start).clone()
}

impl Written {
    /// Whether one line has all of these.
    pub fn has(&self, parts: &[&str]) -> bool {
        let bytes = self.0.lock();
        String::from_utf8_lossy(&bytes).lines().any(|line| parts.iter().all(|part| line.contains(part)))
    }

    /// All of it.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock()).into_owned()
    }
}

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Written {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
