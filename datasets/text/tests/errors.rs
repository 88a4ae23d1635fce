//! Error messages are read by people: their wording is part of the interface.

use kiln_loader::Split;
use kiln_text::DataError;

#[test]
fn messages_are_pinned() {
    let short = DataError::SplitTooShort {
        tokens: 10,
        seq: 16,
        needed: 17,
    };
    assert_eq!(
        short.to_string(),
        "the split has 10 tokens, a window of seq = 16 needs 17: use more text or a shorter seq"
    );
    let empty = DataError::EmptyCorpus {
        name: "text:x".into(),
        split: Some(Split::Validation),
    };
    assert_eq!(
        empty.to_string(),
        "corpus `text:x` has no text for its validation split: give it more or longer documents"
    );
    let character = DataError::UnknownCharacter {
        character: 'é',
        offset: 3,
        vocab_size: 65,
    };
    assert_eq!(
        character.to_string(),
        "character 'é' at byte 3 is not in the vocabulary of 65 characters: remove it, or use `bytes` or `bpe`"
    );
}
