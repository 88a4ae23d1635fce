//! Text out of a model one token at a time.

use std::str;

use super::Tokenizer;
use crate::error::DataError;

/// Decodes a stream of tokens, holding back the bytes of a character until all have arrived.
///
/// What all calls return, concatenated, equals [`Tokenizer::decode`] of all tokens.
#[derive(Debug)]
pub struct StreamDecoder<'a> {
    tokenizer: &'a Tokenizer,
    pending: Vec<u8>,
}

impl<'a> StreamDecoder<'a> {
    /// A decoder at the start of a text.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self {
            tokenizer,
            pending: Vec::new(),
        }
    }

    /// Adds a token and returns the text that is now certain; often empty inside a multi-byte character.
    ///
    /// # Errors
    /// [`DataError::UnknownToken`].
    pub fn push(&mut self, token: u32) -> Result<String, DataError> {
        self.pending
            .extend_from_slice(&self.tokenizer.token_bytes(token)?);
        let mut text = String::new();
        loop {
            let error = match str::from_utf8(&self.pending) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.pending.clear();
                    return Ok(text);
                }
                Err(error) => error,
            };
            let valid: Vec<u8> = self.pending.drain(..error.valid_up_to()).collect();
            text.push_str(&String::from_utf8_lossy(&valid));
            match error.error_len() {
                Some(length) => {
                    self.pending.drain(..length);
                    text.push(char::REPLACEMENT_CHARACTER);
                }
                None => return Ok(text),
            }
        }
    }

    /// Ends the stream: U+FFFD if it stops inside a character, otherwise nothing.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(bytes: &[u8]) -> Vec<String> {
        let mut decoder = StreamDecoder::new(&Tokenizer::Bytes);
        let mut parts: Vec<_> = bytes
            .iter()
            .map(|byte| decoder.push(u32::from(*byte)).unwrap())
            .collect();
        parts.push(decoder.finish());
        parts
    }

    #[test]
    fn characters_come_out_whole() {
        assert_eq!(stream("aé€".as_bytes()), ["a", "", "é", "", "", "€", ""]);
        assert_eq!(stream(b"\xe2\x82"), ["", "", "\u{fffd}"]);
        assert_eq!(stream(b"\xe2a"), ["", "\u{fffd}a", ""]);
    }

    proptest! {
        #[test]
        fn equals_decoding_at_once(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let tokens: Vec<_> = bytes.iter().map(|byte| u32::from(*byte)).collect();
            prop_assert_eq!(stream(&bytes).concat(), Tokenizer::Bytes.decode(&tokens).unwrap());
        }
    }
}
