use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// Frames as debug text, for the borrowed ones cannot be collected.
fn read(pieces: &[&[u8]]) -> (Vec<String>, Option<FrameError>) {
    let (mut decoder, mut frames) = (Decoder::new(), Vec::new());
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(frame)) => frames.push(format!("{frame:?}")),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

fn split<'a>(bytes: &'a [u8], at: &[Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<_> = at.iter().map(|at| at.index(bytes.len() + 1)).collect();
    at.sort_unstable();
    let (mut rest, mut done, mut pieces) = (bytes, 0, Vec::new());
    for at in at {
        let (piece, after) = rest.split_at(at - done);
        pieces.push(piece);
        (rest, done) = (after, at);
    }
    pieces.push(rest);
    pieces
}

type Parts = (u8, u64, u64, u32, bool, String, Vec<u8>);

fn frame(parts: &Parts) -> Frame<'_> {
    let (kind, a, b, c, flag, text, bytes) = parts;
    let status = Status::from_wire(c % 9);
    match kind {
        0 => Frame::Hello { protocol: *c, abi: (*a as u32, *b as u32), concurrency: *c },
        1 => Frame::StartFailed { status, message: text },
        2 => Frame::Result { id: *a, status, data: bytes },
        3 => Frame::Telemetry { count: *c, dropped: *a, records: bytes },
        4 => Frame::Log { call: *a, stream: text, data: bytes },
        5 => Frame::PutBlob { request: *a, path: bytes },
        6 => Frame::GetBlob { request: *a, digest: text, path: bytes },
        7 => Frame::HealthResult { status, reason: text },
        8 => Frame::Stopped,
        9 => Frame::Call {
            id: *a,
            cast: *flag,
            trace: if c % 2 == 0 { text } else { "" },
            method: text,
            payload: bytes,
        },
        10 => Frame::Cancel { id: *a },
        11 => Frame::Credit { bytes: *c },
        12 => Frame::BlobAnswer { request: *a, good: *flag, text, size: *b },
        13 => Frame::Health,
        _ => Frame::Stop,
    }
}

fn parts() -> impl Strategy<Value = Parts> {
    (
        0..15u8,
        any::<u64>(),
        any::<u64>(),
        any::<u32>(),
        any::<bool>(),
        any::<String>(),
        vec(any::<u8>(), 0..100),
    )
}

proptest! {
    #[test]
    fn frames_are_read_back_however_they_are_cut(all in vec(parts(), 0..12), at in vec(any::<Index>(), 0..6)) {
        let mut bytes = Vec::new();
        for parts in &all {
            frame(parts).encode(&mut bytes).unwrap();
        }
        let written: Vec<_> = all.iter().map(|parts| format!("{:?}", frame(parts))).collect();
        prop_assert_eq!(read(&split(&bytes, &at)), (written, None));
    }

    #[test]
    fn any_bytes_give_the_same_however_they_are_cut(
        bytes in vec(prop_oneof![Just(0u8), Just(1u8), 2..40u8, any::<u8>()], 0..200),
        at in vec(any::<Index>(), 0..6),
    ) {
        prop_assert_eq!(read(&split(&bytes, &at)), read(&[&bytes]));
    }
}

#[test]
fn an_announced_length_is_not_believed() {
    let (frames, error) = read(&[&u32::MAX.to_le_bytes()]);
    assert_eq!((frames.len(), error), (0, Some(FrameError::Length(u64::from(u32::MAX)))));
    let mut decoder = Decoder::new();
    decoder.push(&(MAX_FRAME as u32).to_le_bytes());
    assert_eq!(decoder.next(), Ok(None));
    assert!(decoder.buffer.capacity() < 1024);
}

#[test]
fn a_broken_connection_stays_broken() {
    let mut decoder = Decoder::new();
    decoder.push(&[1, 0, 0, 0, 99]);
    assert_eq!(decoder.next(), Err(FrameError::Kind(99)));
    decoder.push(&[1, 0, 0, 0, 36]);
    assert_eq!(decoder.next(), Err(FrameError::Kind(99)));
}

#[test]
fn bodies_of_the_wrong_size_are_refused() {
    for body in [
        &[2, 0, 0, 0, 36, 0][..],
        &[3, 0, 0, 0, 33, 1, 2],
        &[14, 0, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0],
    ] {
        assert!(matches!(read(&[body]).1, Some(FrameError::Body(_))), "{body:?}");
    }
}

#[test]
fn a_frame_over_the_limit_is_not_sent() {
    let mut bytes = b"before".to_vec();
    let data = vec![0; MAX_FRAME];
    let error = Frame::Result { id: 1, status: Status::Done, data: &data }.encode(&mut bytes).unwrap_err();
    assert!(matches!(error, FrameError::Length(_)));
    assert_eq!(bytes, b"before");
}

#[test]
fn a_call_without_a_trace_is_the_frame_that_every_host_knows() {
    let call = |trace| {
        let mut bytes = Vec::new();
        Frame::Call { id: 7, cast: false, trace, method: "m", payload: b"p" }.encode(&mut bytes).unwrap();
        bytes
    };
    let mut plain = vec![32];
    plain.extend_from_slice(&7_u64.to_le_bytes());
    plain.push(0);
    plain.extend_from_slice(&1_u32.to_le_bytes());
    plain.extend_from_slice(b"mp");
    assert_eq!(call("")[4..], plain);
    assert_eq!(call("00-t")[4], 38);
    // An empty trace in the other frame is malformed: one call has one form.
    let mut empty = call("00-t");
    empty.splice(14..22, 0_u32.to_le_bytes());
    let length = empty.len() as u32 - 4;
    empty[..4].copy_from_slice(&length.to_le_bytes());
    assert_eq!(read(&[&empty]).1, Some(FrameError::Body(38)));
}
