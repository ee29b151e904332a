use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use overseer_protocol::Attempt;

use super::*;

fn stream() -> LogStream {
    LogStream { task: TaskId(7), attempt: Attempt(1), stream: "log".into() }
}

fn data(offset: u64, text: &str) -> Push {
    Push { offset, data: Bytes::from(text.to_owned()), ..Push::default() }
}

#[tokio::test]
async fn a_reader_gets_every_byte_once_whatever_is_sent_twice() {
    let dir = tempfile::tempdir().unwrap();
    let logs = Arc::new(Logs::open(dir.path()));
    let mut reader = logs.read(stream(), 0).await.unwrap();
    assert_eq!(logs.push(stream(), data(0, "hello ")).await.unwrap(), 6);
    assert_eq!(logs.push(stream(), data(0, "hello ")).await.unwrap(), 6);
    assert_eq!(logs.push(stream(), data(3, "lo world")).await.unwrap(), 11);
    let eof = Push { offset: 11, eof: true, ..Push::default() };
    assert_eq!(logs.push(stream(), eof).await.unwrap(), 11);
    let mut all = Vec::new();
    while let Some(LogPiece::Data { offset, bytes }) = reader.next().await.unwrap() {
        assert_eq!(offset, all.len() as u64);
        all.extend_from_slice(&bytes);
    }
    assert_eq!(all, b"hello world");
    // After a restart of the Overseer it is all there, with its end.
    let again = Arc::new(Logs::open(dir.path()));
    let mut reader = again.read(stream(), 6).await.unwrap();
    let piece = reader.next().await.unwrap();
    assert_eq!(piece, Some(LogPiece::Data { offset: 6, bytes: Bytes::from("world") }));
    assert_eq!(reader.next().await.unwrap(), None);
}

#[tokio::test]
async fn many_streams_keep_few_files_open_and_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let logs = Arc::new(Logs::open(dir.path()));
    let named = |n: usize| LogStream { stream: format!("s{n}"), ..stream() };
    for round in [0, 2] {
        for n in 0..OPEN_FILES * 2 + 5 {
            logs.push(named(n), data(round, "ab")).await.unwrap();
            assert!(logs.files.load(Ordering::Relaxed) <= OPEN_FILES);
        }
    }
    let mut reader = logs.read(named(3), 0).await.unwrap();
    let piece = reader.next().await.unwrap();
    assert_eq!(piece, Some(LogPiece::Data { offset: 0, bytes: Bytes::from("abab") }));
    for n in 0..OPEN_FILES * 2 + 5 {
        logs.push(named(n), Push { offset: 4, eof: true, ..Push::default() }).await.unwrap();
    }
    assert_eq!(logs.files.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_is_lost_is_a_marked_gap() {
    let dir = tempfile::tempdir().unwrap();
    let logs = Arc::new(Logs::open(dir.path()));
    logs.push(stream(), data(0, "ab")).await.unwrap();
    logs.push(stream(), Push { offset: 2, gap: 10, ..Push::default() }).await.unwrap();
    logs.push(stream(), data(12, "cd")).await.unwrap();
    logs.push(stream(), data(20, "ef")).await.unwrap();
    logs.push(stream(), Push { offset: 22, eof: true, ..Push::default() }).await.unwrap();
    let mut reader = logs.read(stream(), 0).await.unwrap();
    let mut pieces = Vec::new();
    while let Some(piece) = reader.next().await.unwrap() {
        pieces.push(piece);
    }
    let piece = |offset, text: &str| LogPiece::Data { offset, bytes: Bytes::from(text.to_owned()) };
    let gap = |offset, length| LogPiece::Gap { offset, length };
    assert_eq!(pieces, [piece(0, "ab"), gap(2, 10), piece(12, "cd"), gap(14, 6), piece(20, "ef")]);
}

#[tokio::test]
async fn a_name_that_leaves_the_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let logs = Arc::new(Logs::open(dir.path()));
    for name in ["", "../x", "a/b", ".hidden", &"x".repeat(65)] {
        let stream = LogStream { stream: name.to_owned(), ..stream() };
        assert!(matches!(logs.push(stream, data(0, "x")).await, Err(LogError::BadName(_))), "{name}");
    }
}

#[tokio::test]
async fn what_was_written_goes_with_its_task_or_when_it_is_old() {
    let dir = tempfile::tempdir().unwrap();
    let logs = Arc::new(Logs::open(dir.path()));
    let of = |task: u128| LogStream { task: TaskId(task), ..stream() };
    for task in 1..=4 {
        logs.push(of(task), data(0, "some")).await.unwrap();
    }
    for task in 1..=3 {
        logs.push(of(task), Push { offset: 4, eof: true, ..Push::default() }).await.unwrap();
    }
    let mut reader = logs.read(of(1), 0).await.unwrap();
    assert!(reader.next().await.unwrap().is_some());
    logs.remove(TaskId(1)).await.unwrap();
    logs.remove(TaskId(1)).await.unwrap();
    assert_eq!(reader.next().await.unwrap(), None, "who reads it reads on");
    assert_eq!(logs.streams(TaskId(1)), [""; 0]);
    fs::write(dir.path().join("not a task"), "").unwrap();
    let now = SystemTime::now();
    assert_eq!(logs.remove_old(now - Duration::from_secs(60), HashSet::new()).await.unwrap(), 0);
    // The second is kept, the fourth is still open.
    let later = now + Duration::from_secs(60);
    assert_eq!(logs.remove_old(later, HashSet::from([TaskId(2)])).await.unwrap(), 1);
    let left = [1, 2, 3, 4].map(|task| logs.streams(TaskId(task)).len());
    assert_eq!(left, [0, 1, 0, 1]);
    // An open one that is removed begins anew.
    logs.remove(TaskId(4)).await.unwrap();
    assert_eq!(logs.files.load(Ordering::Relaxed), 0);
}
