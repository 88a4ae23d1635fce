//! Fetching one file over HTTP: resumed where it stopped, verified before it gets its name.
//!
//! Bytes go to `NAME.part` beside the destination. An interrupted transfer leaves that file, and the next one asks for
//! the rest of it; a finished one is hashed and renamed. A file at the destination is therefore always whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body};

use crate::error::DataError;
use crate::files;
use crate::hash::Hash;

/// What to fetch.
#[derive(Debug, Clone)]
pub struct Download<'a> {
    /// Address, `http` or `https`.
    pub url: &'a str,
    /// Digest the file must have.
    pub sha256: Hash,
    /// Where the file goes.
    pub destination: &'a Path,
    /// Transfers to try before giving up, at least one.
    pub attempts: u32,
    /// Pause before the second attempt; it doubles with every further one.
    pub retry_pause: Duration,
}

impl<'a> Download<'a> {
    /// Four attempts, one second apart at first.
    pub fn new(url: &'a str, sha256: Hash, destination: &'a Path) -> Self {
        Self {
            url,
            sha256,
            destination,
            attempts: 4,
            retry_pause: Duration::from_secs(1),
        }
    }
}

/// How one attempt ended short of success.
enum Failure {
    /// Worth another attempt.
    Transient(DataError),
    Final(DataError),
}

/// Fetches a file unless it is already there. `progress` gets (bytes on disk, bytes in all where known).
///
/// # Errors
/// An HTTP status other than success, a server that cannot be reached, a transfer that ends early on every attempt, a
/// wrong checksum (the bad file is removed), or a destination that cannot be written.
pub fn fetch(
    request: &Download<'_>,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<(), DataError> {
    if let Some(folder) = request.destination.parent() {
        files::create_dir(folder)?;
    }
    let part = part_path(request.destination);
    let open = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&part);
    let mut file = open.map_err(|e| DataError::io("create", &part, e))?;
    // Two processes appending to one file would spoil it; the second waits here and then finds the file done.
    file.lock().map_err(|e| DataError::io("lock", &part, e))?;
    if request.destination.exists() {
        let _ = fs::remove_file(&part);
        return Ok(());
    }
    let agent = agent();
    let mut pause = request.retry_pause;
    for attempt in 1.. {
        let error = match transfer(request, &agent, &mut file, attempt, progress) {
            Ok(()) => break,
            Err(Failure::Transient(_)) if attempt < request.attempts => {
                thread::sleep(pause);
                pause *= 2;
                continue;
            }
            Err(Failure::Transient(error) | Failure::Final(error)) => error,
        };
        if matches!(error, DataError::ChecksumMismatch { .. })
            || file.metadata().is_ok_and(|m| m.len() == 0)
        {
            let _ = fs::remove_file(&part);
        }
        return Err(error);
    }
    file.sync_all()
        .map_err(|e| DataError::io("flush", &part, e))?;
    fs::rename(&part, request.destination)
        .map_err(|e| DataError::io("write", request.destination, e))
}

fn part_path(destination: &Path) -> PathBuf {
    let mut name = destination.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    destination.with_file_name(name)
}

fn agent() -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .timeout_per_read(Some(Duration::from_secs(60)))
        .build()
        .new_agent()
}

/// One attempt: asks for what is missing, appends it, verifies the whole.
fn transfer(
    request: &Download<'_>,
    agent: &Agent,
    file: &mut File,
    attempt: u32,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<(), Failure> {
    let url = request.url.to_owned();
    let disk = |e| Failure::Final(DataError::io("write", &part_path(request.destination), e));
    let broken = |reason: String| {
        Failure::Transient(DataError::Transport {
            url: url.clone(),
            attempts: attempt,
            reason,
        })
    };
    let have = file.seek(SeekFrom::End(0)).map_err(disk)?;
    // A compressed body could not be resumed by offset, and its length would not be the file's.
    let mut call = agent
        .get(request.url)
        .header(header::ACCEPT_ENCODING, "identity");
    if have > 0 {
        call = call.header(header::RANGE, format!("bytes={have}-"));
    }
    let mut response = call.call().map_err(|e| broken(e.to_string()))?;
    let mut done = match response.status() {
        StatusCode::PARTIAL_CONTENT if range_start(&response) == Some(have) => have,
        // Nothing is left to send, or the part is longer than the file: the checksum tells which.
        StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => {
            return verify(request, file, true);
        }
        StatusCode::OK => restart(file).map_err(disk)?,
        status => {
            let error = DataError::HttpStatus {
                url: url.clone(),
                status: status.as_u16(),
            };
            let transient = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
            return Err(if transient {
                Failure::Transient(error)
            } else {
                Failure::Final(error)
            });
        }
    };
    let total = response.body().content_length().map(|length| done + length);
    let mut reader = response.body_mut().as_reader();
    let mut buffer = vec![0; 1 << 16];
    loop {
        progress(done, total);
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => file.write_all(&buffer[..read]).map_err(disk)?,
            // What arrived is kept; whether it was enough is decided below.
            Err(error) if total.is_none() => return Err(broken(error.to_string())),
            Err(_) => break,
        }
        done = file.stream_position().map_err(disk)?;
    }
    match total {
        Some(expected) if done < expected => Err(Failure::Transient(DataError::Truncated {
            url,
            attempts: attempt,
            received: done,
            expected,
        })),
        _ => verify(request, file, have > 0),
    }
}

fn restart(file: &mut File) -> io::Result<u64> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))
}

/// First byte offset of a partial response.
fn range_start(response: &Response<Body>) -> Option<u64> {
    let value = response
        .headers()
        .get(header::CONTENT_RANGE)?
        .to_str()
        .ok()?;
    value
        .strip_prefix("bytes ")?
        .split('-')
        .next()?
        .parse()
        .ok()
}

/// Checks the digest. A wrong one empties the file, and is worth another attempt only if old bytes were part of it.
fn verify(request: &Download<'_>, file: &mut File, resumed: bool) -> Result<(), Failure> {
    let disk = |e| Failure::Final(DataError::io("read", &part_path(request.destination), e));
    file.seek(SeekFrom::Start(0)).map_err(disk)?;
    let (found, _) = Hash::of_reader(&mut *file).map_err(disk)?;
    if found == request.sha256 {
        return Ok(());
    }
    restart(file).map_err(disk)?;
    let what = request.url.to_owned();
    let error = DataError::ChecksumMismatch {
        what,
        found,
        expected: request.sha256,
    };
    Err(if resumed {
        Failure::Transient(error)
    } else {
        Failure::Final(error)
    })
}
