use bytes::Bytes;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::{mpsc, watch};

use super::HostOutput;

/// Largest piece, in bytes.
const PIECE: usize = 32 * 1024;
/// What a pipe can hold, in bytes: what is in it when the process has ended.
const PIPE: usize = 1024 * 1024;

/// Reads standard output or error of a host until its process has `ended` and all that it wrote
/// is read. Reads no more than the receiver takes, so that a host that prints faster than its
/// logs are kept waits in its write.
pub(super) async fn run(
    pipe: Receiver,
    stream: &'static str,
    output: mpsc::Sender<HostOutput>,
    mut ended: watch::Receiver<bool>,
) {
    let mut space = vec![0; PIECE];
    let piece = |bytes: &[u8]| HostOutput::Log {
        call: None,
        stream: stream.to_owned(),
        data: Bytes::copy_from_slice(bytes),
    };
    loop {
        tokio::select! {
            biased;
            ready = pipe.readable() => if ready.is_err() { return },
            _ = ended.wait_for(|ended| *ended) => break,
        }
        match pipe.try_read(&mut space) {
            Ok(0) => return,
            Ok(count) => {
                if output.send(piece(&space[..count])).await.is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
    // A process that got out of the group may hold the pipe open, so its end cannot be waited
    // for; what the host wrote is in the pipe already.
    let mut read = 0;
    while read < PIPE {
        match rustix::io::read(&pipe, &mut space) {
            Ok(count) if count > 0 => {
                read += count;
                if output.send(piece(&space[..count])).await.is_err() {
                    return;
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            _ => return,
        }
    }
}
