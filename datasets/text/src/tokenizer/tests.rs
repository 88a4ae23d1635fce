use super::*;
use proptest::prelude::*;
use std::sync::LazyLock;

fn corpus() -> Corpus {
    crate::corpus::testing::corpus_of(["fn main() { let naïve = 1; }\n", "let v = 2;\n", "é\n"])
}

static BPE: LazyLock<Tokenizer> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let config = TokenizerConfig::Bpe { vocab_size: 270 };
    Tokenizer::for_corpus(&config, &corpus(), folder.path(), &mut |_| {}).unwrap()
});

fn chars(text: &str) -> Tokenizer {
    Tokenizer::Chars(CharVocabulary::of([text]))
}

proptest! {
    #[test]
    fn any_text_round_trips(text in any::<String>()) {
        for tokenizer in [&Tokenizer::Bytes, &chars(&text), &*BPE] {
            let tokens = tokenizer.encode(&text).unwrap();
            prop_assert!(tokens.iter().all(|token| *token < tokenizer.vocab_size()));
            prop_assert_eq!(tokenizer.decode(&tokens).unwrap(), &*text);
        }
    }
}

#[test]
fn saved_tokenizers_load_as_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    for tokenizer in [&Tokenizer::Bytes, &chars("héello"), &*BPE] {
        tokenizer.save(&path).unwrap();
        let loaded = Tokenizer::load(&path).unwrap();
        assert_eq!(loaded.hash(), tokenizer.hash());
        assert_eq!(
            loaded.encode("hello").unwrap(),
            tokenizer.encode("hello").unwrap()
        );
    }
    assert_ne!(chars("ab").hash(), chars("abc").hash());
    assert!(tokenizers::Tokenizer::from_file(&path).is_ok());
}

#[test]
fn the_chars_alphabet_covers_all_splits() {
    let folder = tempfile::tempdir().unwrap();
    let made = Tokenizer::for_corpus(
        &TokenizerConfig::Chars,
        &corpus(),
        folder.path(),
        &mut |_| {},
    );
    let tokenizer = made.unwrap();
    assert!(tokenizer.encode("vé").is_ok());
    assert!(matches!(
        tokenizer.encode("naîve").unwrap_err(),
        DataError::UnknownCharacter {
            character: 'î',
            offset: 2,
            ..
        }
    ));
}

#[test]
fn bpe_training_is_cached_repaired_and_repeatable() {
    let folder = tempfile::tempdir().unwrap();
    let config = TokenizerConfig::Bpe { vocab_size: 270 };
    let mut events = Vec::new();
    let mut make = || {
        Tokenizer::for_corpus(&config, &corpus(), folder.path(), &mut |p| events.push(p)).unwrap()
    };
    let first = make();
    assert_eq!(make().hash(), first.hash());
    let cached = folder.path().join("tokenizers");
    let file = std::fs::read_dir(cached)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    std::fs::write(file, "{").unwrap();
    assert_eq!(make().hash(), first.hash());
    let training = Progress::TrainingTokenizer { vocab_size: 270 };
    assert_eq!(events[0], training);
    assert!(matches!(events[1], Progress::Warning(_)));
    assert_eq!(events[2..], [training]);
    assert_eq!(first.hash(), BPE.hash());
}

#[test]
fn unknown_tokens_and_files_are_errors() {
    let message = Tokenizer::Bytes.decode(&[256]).unwrap_err().to_string();
    assert!(message.starts_with("token 256 is not in the vocabulary of 256 tokens"));
    for json in [
        "",
        "{}",
        r#"{"kiln": "words"}"#,
        r#"{"kiln": "bytes", "more": 1}"#,
    ] {
        assert!(Tokenizer::from_json(json.as_bytes()).is_err(), "{json}");
    }
}
