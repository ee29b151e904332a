//! A socket that leads to another one for as long as nobody cuts it, whoever listens there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinHandle};

/// One of them; gone when this is dropped.
pub struct Cable {
    open: Arc<Mutex<Vec<AbortHandle>>>,
    listening: JoinHandle<()>,
}

impl Cable {
    /// Lays one from `path`, where nothing is yet, to `upstream`.
    pub fn lay(path: &Path, upstream: PathBuf) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let open: Arc<Mutex<Vec<AbortHandle>>> = Arc::default();
        let passing = Arc::clone(&open);
        let listening = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let upstream = upstream.clone();
                let carried = tokio::spawn(async move {
                    // Nobody listens there while a server is being started again.
                    if let Ok(mut far) = UnixStream::connect(upstream).await {
                        // However it ends, both ends see it.
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
                let mut open = passing.lock();
                open.retain(|carried| !carried.is_finished());
                open.push(carried.abort_handle());
            }
        });
        Self { open, listening }
    }

    /// Cuts what is open; new connections pass. How many that were.
    pub fn cut(&self) -> usize {
        let open = std::mem::take(&mut *self.open.lock());
        let open: Vec<AbortHandle> = open.into_iter().filter(|carried| !carried.is_finished()).collect();
        open.iter().for_each(AbortHandle::abort);
        open.len()
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.listening.abort();
        self.cut();
    }
}
