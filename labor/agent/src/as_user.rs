//! Files that a plugin names to the agent: touched with the rights of the plugin and no others, or a
//! host that runs as another user would have the agent's.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::fs::File;

use crate::host::Confinement;

/// As whom files are touched. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct AsUser(Option<Arc<Confinement>>);

impl AsUser {
    /// As the hosts of this confinement; as the agent where there is none.
    pub(crate) fn of(confinement: Option<Arc<Confinement>>) -> Self {
        Self(confinement)
    }

    pub(crate) async fn open(&self, path: PathBuf) -> io::Result<File> {
        let open = move || {
            let file = fs::File::open(path)?;
            // Of whoever opens it, which is the agent here, there may be its environment.
            match rustix::fs::fstatfs(&file)?.f_type == rustix::fs::PROC_SUPER_MAGIC {
                true => Err(io::Error::other("it is of /proc; copy what is needed of it to a file")),
                false => Ok(file),
            }
        };
        self.act(open).await.map(File::from_std)
    }

    pub(crate) async fn create(&self, path: PathBuf) -> io::Result<File> {
        self.act(move || fs::File::create(path)).await.map(File::from_std)
    }

    pub(crate) async fn rename(&self, from: PathBuf, to: PathBuf) -> io::Result<()> {
        self.act(move || fs::rename(from, to)).await
    }

    pub(crate) async fn remove(&self, path: PathBuf) -> io::Result<()> {
        self.act(move || fs::remove_file(path)).await
    }

    async fn act<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let confinement = self.0.clone();
        let acting = tokio::task::spawn_blocking(move || {
            let user = confinement.map(|confinement| confinement.user()).transpose();
            match user.map_err(io::Error::other)?.flatten() {
                Some(user) => user.act(act),
                None => act(),
            }
        });
        acting.await.map_err(io::Error::other)?
    }
}
