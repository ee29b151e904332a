//! Frames between agent and plugin host, from anyone: the same frames however the bytes are cut,
//! what is read is written as the same, and a broken connection stays broken.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overseer_plugin::frame::{Decoder, Frame, FrameError};
use overseer_plugin::record::Records;

#[path = "../seeds.rs"]
mod seeds;

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let (mut call, mut log) = (vec![3], vec![0]);
    Frame::Call { id: 1, cast: false, trace: "", method: "echo", payload: b"{}" }
        .encode(&mut call)
        .expect("small");
    Frame::Cancel { id: 1 }.encode(&mut call).expect("small");
    Frame::Log { call: 1, stream: "out", data: b"x\n" }.encode(&mut log).expect("small");
    Frame::Telemetry { count: 0, dropped: 1, records: &[] }.encode(&mut log).expect("small");
    vec![("call", call), ("log", log)]
}

/// The frames that the pieces hold, as text, and what broke them off.
fn read(pieces: impl Iterator<Item = Vec<u8>>) -> (Vec<String>, Option<FrameError>) {
    let (mut decoder, mut frames) = (Decoder::new(), Vec::new());
    for piece in pieces {
        decoder.push(&piece);
        loop {
            match decoder.next() {
                Ok(Some(frame)) => {
                    check(&frame);
                    frames.push(format!("{frame:?}"));
                }
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.next(), Err(error));
                    return (frames, Some(error));
                }
            }
        }
    }
    (frames, None)
}

fn check(frame: &Frame<'_>) {
    if let Frame::Telemetry { records, .. } = frame {
        assert!(Records::new(records).count() <= records.len() / 4 + 1);
    }
    let mut again = Vec::new();
    frame.encode(&mut again).expect("what was read can be written");
    let mut other = Decoder::new();
    other.push(&again);
    assert_eq!(other.next().expect("and read again").as_ref(), Some(frame));
}

fuzz_target!(init: seeds::write(seeds()), |data: &[u8]| {
    let Some((size, bytes)) = data.split_first() else { return };
    let cut = read(bytes.chunks(usize::from(*size).max(1)).map(<[u8]>::to_vec));
    assert_eq!(cut, read(std::iter::once(bytes.to_vec())));
});
