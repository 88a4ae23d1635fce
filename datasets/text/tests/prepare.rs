//! Preparation end to end on a small text: reuse, repair, concurrency.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::thread;

use kiln_text::{
    DataConfig, DataEnv, DataError, Prepared, Progress, TokenStore, TokenizerConfig, prepare,
};

const LINE: &str = "fn add(a: u32, b: u32) -> u32 { a + b } // naïve\n";

fn setup(root: &Path, tokenizer: TokenizerConfig) -> (DataConfig, DataEnv) {
    let text = root.join("corpus.txt");
    fs::write(&text, LINE.repeat(200)).unwrap();
    let env = DataEnv {
        cache_dir: root.join("cache"),
        data_dir: None,
        workspace_manifest: root.join("Cargo.toml"),
    };
    let name = format!("text:{}", text.display());
    (
        DataConfig {
            name,
            tokenizer,
            ..DataConfig::default()
        },
        env,
    )
}

fn run(config: &DataConfig, env: &DataEnv) -> (Prepared, Vec<Progress>) {
    let mut events = Vec::new();
    let prepared = prepare(config, env, &mut |event| events.push(event)).unwrap();
    (prepared, events)
}

fn tokens(store: &TokenStore) -> Vec<u32> {
    let mut out = Vec::new();
    store.read(0..store.len(), &mut out);
    out
}

fn reused(events: &[Progress]) -> bool {
    matches!(events.last(), Some(Progress::Reused { .. }))
}

#[test]
fn every_tokenizer_gives_back_the_text_and_is_reused() {
    let folder = tempfile::tempdir().unwrap();
    let bpe = TokenizerConfig::Bpe { vocab_size: 300 };
    for tokenizer in [TokenizerConfig::Bytes, TokenizerConfig::Chars, bpe] {
        let (config, env) = setup(folder.path(), tokenizer);
        let (first, events) = run(&config, &env);
        assert!(!reused(&events));
        let stores = [
            &first.train,
            &first.validation,
            first.test.as_ref().unwrap(),
        ];
        let text: String = stores
            .map(|store| first.tokenizer.decode(&tokens(store)).unwrap())
            .concat();
        assert_eq!(text, LINE.repeat(200));
        assert_eq!(
            stores.map(TokenStore::bytes).iter().sum::<u64>(),
            text.len() as u64
        );
        assert_eq!(first.manifest.train.tokens, first.train.len());
        assert_eq!(first.manifest.vocab_size, first.tokenizer.vocab_size());
        let (second, events) = run(&config, &env);
        assert!(reused(&events));
        assert_eq!(second.manifest, first.manifest);
        assert_eq!(tokens(&second.train), tokens(&first.train));
    }
    assert_eq!(
        fs::read_dir(folder.path().join("cache/prepared"))
            .unwrap()
            .count(),
        3
    );
}

#[test]
fn a_saved_tokenizer_prepares_the_same_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let (config, env) = setup(folder.path(), TokenizerConfig::Bpe { vocab_size: 300 });
    let (first, _) = run(&config, &env);
    let file = TokenizerConfig::File {
        path: first.path.join("tokenizer.json"),
    };
    let (second, events) = run(
        &DataConfig {
            tokenizer: file,
            ..config
        },
        &env,
    );
    assert_eq!(second.manifest, first.manifest);
    assert!(reused(&events));
}

#[test]
fn damage_is_reported_and_repaired() {
    let folder = tempfile::tempdir().unwrap();
    let (config, env) = setup(folder.path(), TokenizerConfig::Bytes);
    let (first, _) = run(&config, &env);
    let (path, expected) = (first.path.clone(), tokens(&first.train));
    drop(first);
    let damage: [fn(&Path); 4] = [
        |path| {
            let shard = path.join("train.tokens");
            let mut bytes = fs::read(&shard).unwrap();
            bytes[500] ^= 1;
            fs::remove_file(&shard).unwrap();
            fs::write(shard, bytes).unwrap();
        },
        |path| fs::remove_file(path.join("validation.tokens")).unwrap(),
        |path| fs::write(path.join("manifest.json"), "{").unwrap(),
        |path| {
            fs::write(
                path.join("tokenizer.json"),
                r#"{"kiln":"chars","characters":"a"}"#,
            )
            .unwrap()
        },
    ];
    for damage in damage {
        damage(&path);
        let (again, events) = run(&config, &env);
        let warnings: Vec<_> = events
            .iter()
            .filter(|event| matches!(event, Progress::Warning(_)))
            .collect();
        assert_eq!(warnings.len(), 1, "{events:?}");
        assert_eq!(tokens(&again.train), expected);
        drop(again);
        assert!(reused(&run(&config, &env).1));
    }
    assert_eq!(
        fs::read_dir(folder.path().join("cache/prepared"))
            .unwrap()
            .count(),
        1
    );
}

#[test]
fn preparing_at_once_leaves_one_whole_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (config, env) = setup(folder.path(), TokenizerConfig::Bpe { vocab_size: 300 });
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| run(&config, &env).0))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(
        results
            .iter()
            .all(|prepared| prepared.manifest == results[0].manifest)
    );
    assert_eq!(
        fs::read_dir(folder.path().join("cache/prepared"))
            .unwrap()
            .count(),
        1
    );
    assert!(reused(&run(&config, &env).1));
}

#[test]
fn mistakes_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let (config, env) = setup(folder.path(), TokenizerConfig::Bytes);
    let fails = |config: DataConfig| prepare(&config, &env, &mut |_| {}).unwrap_err();
    let error = fails(DataConfig {
        name: "wikipedia".into(),
        ..config.clone()
    });
    assert!(matches!(error, DataError::UnknownCorpus { .. }), "{error}");
    let error = fails(DataConfig {
        max_bytes: 10,
        ..config.clone()
    });
    assert!(
        matches!(error, DataError::CorpusTooLarge { max_bytes: 10, .. }),
        "{error}"
    );
    let small = TokenizerConfig::Bpe { vocab_size: 10 };
    let error = fails(DataConfig {
        tokenizer: small,
        ..config.clone()
    });
    assert!(
        matches!(error, DataError::VocabularyTooSmall { vocab_size: 10 }),
        "{error}"
    );
    let missing = TokenizerConfig::File {
        path: "no/such.json".into(),
    };
    let error = fails(DataConfig {
        tokenizer: missing,
        ..config
    });
    assert!(matches!(error, DataError::Io { .. }), "{error}");
}
