//! Words of a split, for a loss that compares between tokenizers.

use crate::error::DataError;
use crate::store::TokenStore;
use crate::tokenizer::Tokenizer;

/// Words in the text of a split but its first token: runs of bytes without ASCII whitespace. A perplexity per word is e to the
/// nats of all its targets over this.
///
/// # Errors
/// [`DataError::UnknownToken`] for tokens of another tokenizer.
pub fn words(store: &TokenStore, tokenizer: &Tokenizer) -> Result<u64, DataError> {
    let mut words = 0;
    let mut inside = false;
    for token in store.pieces().flatten().skip(1) {
        for byte in tokenizer.token_bytes(token)?.iter() {
            let is_space = byte.is_ascii_whitespace();
            words += u64::from(!is_space && !inside);
            inside = !is_space;
        }
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_what_stands_between_spaces() {
        let count = |text: &str| {
            let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
            let store = TokenStore::from_tokens(tokens, text.len() as u64, 256).unwrap();
            words(&store, &Tokenizer::Bytes).unwrap()
        };
        for (text, expected) in [("", 0), (".to be,\nor  not ", 4), (". ", 0), ("ab", 1)] {
            assert_eq!(count(text), expected, "{text:?}");
        }
    }
}
