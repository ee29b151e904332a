use std::path::Path;

use crate::BlobRef;

/// What a plugin says to whoever hosts it. The contexts speak to it on the plugin's side of the
/// ABI, the host loop answers on the other, and tests put a recorder in between.
pub(crate) trait Link: Send + Sync {
    /// Scratch directory of the host.
    fn directory(&self) -> &Path;
    /// Takes one record with its length, as [`Record::encode`](crate::record::Record::encode)
    /// writes it; none at all stands for a record that was too large. Never blocks.
    fn telemetry(&self, record: &[u8]);
    /// Blocks while the agent takes no more.
    fn log(&self, call: u64, stream: &str, bytes: &[u8]);
    /// W3C Trace Context of a call that runs, where somebody traces it.
    fn trace(&self, call: u64) -> Option<String>;
    /// Blocks until the agent answers.
    fn put_blob(&self, file: &Path) -> Result<BlobRef, String>;
    /// Blocks until the agent answers.
    fn get_blob(&self, digest: &str, to: &Path) -> Result<u64, String>;
}
