//! Caches on disk: what was written is read, what is damaged is found, what was stopped goes on.

use std::fs;

use super::*;

/// 5 shards: windows of 2 MiB, four a shard, and three in the last.
const LAYOUT: CacheLayout = CacheLayout {
    windows: 19,
    seq: 1 << 16,
    top_k: 3,
};

fn small() -> CacheLayout {
    CacheLayout {
        windows: 3,
        seq: 4,
        top_k: 2,
    }
}

fn rows(layout: &CacheLayout, shard: u64) -> Rows {
    let windows = layout.windows_of(shard);
    let count = (windows.end - windows.start) as usize * layout.seq;
    let first = (shard * 1000) as i32;
    Rows {
        kept: (0..count * layout.top_k)
            .map(|i| first + i as i32)
            .collect(),
        log_probs: (0..count * (layout.top_k + 1))
            .map(|i| -(first as f32) - i as f32)
            .collect(),
    }
}

fn fill(folder: &Path, layout: CacheLayout) -> CacheWriter {
    let writer = CacheWriter::open(folder, layout, &mut || {}).unwrap();
    for shard in writer.missing() {
        writer.write(shard, &rows(&layout, shard)).unwrap();
    }
    writer
}

#[test]
fn what_was_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let reader = fill(folder.path(), small()).finish().unwrap();
    let mut found = Rows::default();
    reader.read(1, [0, 3].into_iter(), &mut found);
    reader.read(0, [2].into_iter(), &mut found);
    let written = rows(&small(), 0);
    let expected = [4, 7, 2].map(|row| {
        (
            written.kept[2 * row..2 * row + 2].to_vec(),
            written.log_probs[3 * row..3 * row + 3].to_vec(),
        )
    });
    let (kept, log_probs): (Vec<_>, Vec<_>) = expected.into_iter().unzip();
    assert_eq!(
        (found.kept, found.log_probs),
        (kept.concat(), log_probs.concat())
    );
}

#[test]
fn the_size_is_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!((LAYOUT.shards(), LAYOUT.windows_of(4)), (5, 16..19));
    fill(folder.path(), LAYOUT);
    let sizes = fs::read_dir(folder.path()).unwrap();
    let bytes: u64 = sizes
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    assert_eq!(bytes, LAYOUT.bytes());
}

#[test]
fn a_stopped_build_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    drop(fill(folder.path(), LAYOUT));
    fs::remove_file(shard_path(folder.path(), 3)).unwrap();
    let writer = CacheWriter::open(folder.path(), LAYOUT, &mut || {}).unwrap();
    assert_eq!(writer.missing(), [3]);
    assert!(CacheReader::open(folder.path(), LAYOUT).is_err());
    writer.write(3, &rows(&LAYOUT, 3)).unwrap();
    writer.finish().unwrap();
}

#[test]
fn what_is_damaged_is_found() {
    let folder = tempfile::tempdir().unwrap();
    drop(fill(folder.path(), small()));
    let path = shard_path(folder.path(), 0);
    let whole = fs::read(&path).unwrap();
    for at in [0, 9, HEADER_BYTES + 5, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let error = CacheReader::open(folder.path(), small()).unwrap_err();
        assert!(
            error.to_string().ends_with(
                "is damaged: its sha256 is another than it says; delete the file, and the next run makes it again"
            ),
            "{error}"
        );
    }
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let error = CacheReader::open(folder.path(), small()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("it has 152 bytes, and 304 were written"),
        "{error}"
    );
    // A shard of another place is whole, and not this one.
    fs::write(&path, &whole).unwrap();
    let other = CacheLayout {
        windows: 6,
        seq: 2,
        ..small()
    };
    let error = CacheReader::open(folder.path(), other).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("its header is that of another shard"),
        "{error}"
    );
}

#[test]
fn too_few_rows_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let writer = CacheWriter::open(folder.path(), small(), &mut || {}).unwrap();
    let mut few = rows(&small(), 0);
    few.log_probs.truncate(9);
    assert_eq!(
        writer.write(0, &few).unwrap_err().to_string(),
        "3 rows of a teacher's answers were given for 12 positions"
    );
}

#[test]
fn a_second_process_waits() {
    let folder = tempfile::tempdir().unwrap();
    let first = CacheWriter::open(folder.path(), small(), &mut || {}).unwrap();
    let (path, waited) = (folder.path().to_owned(), std::sync::mpsc::channel());
    let second = std::thread::spawn(move || {
        let mut told = || waited.0.send(()).unwrap();
        CacheWriter::open(&path, small(), &mut told)
            .unwrap()
            .missing()
    });
    waited.1.recv().unwrap();
    first.write(0, &rows(&small(), 0)).unwrap();
    drop(first);
    assert!(second.join().unwrap().is_empty());
}
