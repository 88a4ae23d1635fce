//! The downloader against a small HTTP server that can misbehave.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use kiln_text::download::{Download, fetch};
use kiln_text::{DataError, Hash};

/// What the server does with one connection.
#[derive(Clone, Copy)]
enum Reply {
    /// Sends what was asked for, ranges included.
    Serve,
    /// Announces everything, closes after this many bytes.
    CutAfter(usize),
    /// Ignores a range and sends everything.
    IgnoreRange,
    /// Sends the right number of wrong bytes.
    Corrupt,
    Status(&'static str),
}

struct Server {
    url: String,
    /// The `Range` header of each request, empty where it had none.
    ranges: Arc<Mutex<Vec<String>>>,
}

/// Serves `content`, one reply of the script per connection, then stops listening.
fn serve(content: &'static [u8], script: &'static [Reply]) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file", listener.local_addr().unwrap());
    let ranges = Arc::new(Mutex::new(Vec::new()));
    let seen = ranges.clone();
    thread::spawn(move || {
        for reply in script {
            let (stream, _) = listener.accept().unwrap();
            answer(stream, content, *reply, &seen);
        }
    });
    Server { url, ranges }
}

fn answer(mut stream: TcpStream, content: &[u8], reply: Reply, seen: &Mutex<Vec<String>>) {
    let mut range = String::new();
    for line in BufReader::new(stream.try_clone().unwrap())
        .lines()
        .map_while(Result::ok)
    {
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("range: bytes=") {
            range = value.to_owned();
        }
    }
    seen.lock().unwrap().push(range.clone());
    let total = content.len();
    let mut start = range.trim_end_matches('-').parse().unwrap_or(0);
    if matches!(reply, Reply::IgnoreRange) {
        start = 0;
    }
    let status = match reply {
        Reply::Status(status) => status,
        _ if start >= total => "416 Range Not Satisfiable",
        _ if start > 0 => "206 Partial Content",
        _ => "200 OK",
    };
    let mut body = content.get(start..).unwrap_or_default().to_vec();
    match reply {
        Reply::Status(_) => body.clear(),
        Reply::Corrupt => body.iter_mut().for_each(|byte| *byte ^= 1),
        _ => {}
    }
    let mut head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n",
        body.len()
    );
    if status.starts_with("206") {
        head += &format!("Content-Range: bytes {start}-{}/{total}\r\n", total - 1);
    }
    if let Reply::CutAfter(length) = reply {
        body.truncate(length);
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    stream.write_all(&body).unwrap();
}

const CONTENT: &[u8] = &[b'k'; 200_000];

struct Case {
    _folder: tempfile::TempDir,
    target: PathBuf,
    part: PathBuf,
}

fn case() -> Case {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("raw/file.txt");
    fs::create_dir_all(target.parent().unwrap()).unwrap();
    Case {
        part: target.with_file_name("file.txt.part"),
        target,
        _folder: folder,
    }
}

/// Bytes on disk, and in all where known.
type Step = (u64, Option<u64>);

fn run(server: &Server, case: &Case, attempts: u32) -> (Result<(), DataError>, Vec<Step>) {
    let request = Download {
        attempts,
        retry_pause: Duration::from_millis(1),
        ..Download::new(&server.url, Hash::of(CONTENT), &case.target)
    };
    let mut steps = Vec::new();
    let result = fetch(&request, &mut |done, total| steps.push((done, total)));
    (result, steps)
}

#[test]
fn a_complete_transfer_reports_progress_and_is_not_repeated() {
    let (server, case) = (serve(CONTENT, &[Reply::Serve]), case());
    let (result, steps) = run(&server, &case, 1);
    result.unwrap();
    assert_eq!(fs::read(&case.target).unwrap(), CONTENT);
    assert!(!case.part.exists());
    assert_eq!(steps.first(), Some(&(0, Some(200_000))));
    assert_eq!(steps.last(), Some(&(200_000, Some(200_000))));
    assert!(steps.is_sorted());
    // The server is gone: the second call must not need it.
    run(&server, &case, 1).0.unwrap();
    assert!(!case.part.exists());
}

#[test]
fn a_partial_file_is_resumed() {
    let (server, case) = (serve(CONTENT, &[Reply::Serve]), case());
    fs::write(&case.part, &CONTENT[..150_000]).unwrap();
    let (result, steps) = run(&server, &case, 1);
    result.unwrap();
    assert_eq!(fs::read(&case.target).unwrap(), CONTENT);
    assert_eq!(steps.first(), Some(&(150_000, Some(200_000))));
    assert_eq!(*server.ranges.lock().unwrap(), ["150000-"]);
}

#[test]
fn a_truncated_transfer_is_continued_on_retry() {
    let (server, case) = (
        serve(CONTENT, &[Reply::CutAfter(70_000), Reply::Serve]),
        case(),
    );
    run(&server, &case, 2).0.unwrap();
    assert_eq!(fs::read(&case.target).unwrap(), CONTENT);
    assert_eq!(*server.ranges.lock().unwrap(), ["", "70000-"]);
}

#[test]
fn a_transfer_truncated_every_time_keeps_what_arrived() {
    let (server, case) = (
        serve(CONTENT, &[Reply::CutAfter(1000), Reply::CutAfter(1000)]),
        case(),
    );
    let (result, _) = run(&server, &case, 2);
    let error = result.unwrap_err();
    assert!(
        matches!(
            error,
            DataError::Truncated {
                received: 2000,
                expected: 200_000,
                attempts: 2,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(fs::metadata(&case.part).unwrap().len(), 2000);
    assert!(!case.target.exists());
}

#[test]
fn a_server_without_ranges_starts_over() {
    let (server, case) = (serve(CONTENT, &[Reply::IgnoreRange]), case());
    fs::write(&case.part, b"stale").unwrap();
    run(&server, &case, 1).0.unwrap();
    assert_eq!(fs::read(&case.target).unwrap(), CONTENT);
}

#[test]
fn corrupt_content_is_an_error_and_is_removed() {
    let (server, case) = (serve(CONTENT, &[Reply::Corrupt]), case());
    let message = run(&server, &case, 4).0.unwrap_err().to_string();
    let wrong = Hash::of(&[b'k' ^ 1; 200_000]);
    assert!(
        message.contains(&Hash::of(CONTENT).to_string()) && message.contains(&wrong.to_string()),
        "{message}"
    );
    assert!(!case.target.exists() && !case.part.exists());
}

#[test]
fn a_stale_part_is_replaced_by_a_fresh_transfer() {
    let (server, case) = (serve(CONTENT, &[Reply::Serve, Reply::Serve]), case());
    fs::write(&case.part, b"stale").unwrap();
    run(&server, &case, 2).0.unwrap();
    assert_eq!(*server.ranges.lock().unwrap(), ["5-", ""]);
    let (server, case) = (serve(CONTENT, &[Reply::Serve]), self::case());
    fs::write(&case.part, CONTENT).unwrap();
    run(&server, &case, 1).0.unwrap();
    assert_eq!(*server.ranges.lock().unwrap(), ["200000-"]);
}

#[test]
fn not_found_is_final_and_unavailable_is_retried() {
    let (server, case) = (serve(CONTENT, &[Reply::Status("404 Not Found")]), case());
    let error = run(&server, &case, 4).0.unwrap_err();
    assert!(
        matches!(error, DataError::HttpStatus { status: 404, .. }),
        "{error}"
    );
    assert!(!case.part.exists());
    let (server, case) = (
        serve(
            CONTENT,
            &[Reply::Status("503 Service Unavailable"), Reply::Serve],
        ),
        self::case(),
    );
    run(&server, &case, 2).0.unwrap();
    assert_eq!(server.ranges.lock().unwrap().len(), 2);
}

#[test]
fn no_server_is_a_transport_error() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file", listener.local_addr().unwrap());
    drop(listener);
    let server = Server {
        url,
        ranges: Arc::default(),
    };
    let error = run(&server, &case(), 2).0.unwrap_err();
    assert!(
        matches!(error, DataError::Transport { attempts: 2, .. }),
        "{error}"
    );
}
