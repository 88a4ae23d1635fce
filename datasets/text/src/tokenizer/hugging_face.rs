//! Byte-level tokenizers of the `tokenizers` library: trained here, or loaded from a `tokenizer.json`.
//!
//! Only byte-level ones are accepted. They alone encode any text without loss and give each token fixed bytes, which
//! streaming generation and bits per byte rely on. SentencePiece-style files are refused when loaded.

use std::collections::HashMap;

use rayon::prelude::*;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use crate::error::DataError;

/// Texts are encoded in pieces of about this many bytes: bounded memory, and work for every core.
const PIECE_BYTES: usize = 1 << 16;
const BYTE_TOKENS: u32 = 256;

/// A byte-level tokenizer with the bytes of each of its tokens.
#[derive(Clone)]
pub struct HuggingFaceTokenizer {
    inner: tokenizers::Tokenizer,
    /// Indexed by token id; none for ids that the file leaves out.
    bytes: Vec<Option<Box<[u8]>>>,
    json: String,
}

impl HuggingFaceTokenizer {
    /// Trains byte-pair merges on `texts`, split into words as GPT-2 does; every single byte is a token.
    pub(super) fn train<'a>(
        texts: impl Iterator<Item = &'a str>,
        vocab_size: u32,
    ) -> Result<Self, DataError> {
        if vocab_size < BYTE_TOKENS {
            return Err(DataError::VocabularyTooSmall { vocab_size });
        }
        let failed = |reason: String| DataError::Tokenizer {
            action: "train",
            reason,
        };
        let mut inner = tokenizers::Tokenizer::new(BPE::default());
        let byte_level = ByteLevel::new(false, false, true);
        inner
            .with_pre_tokenizer(Some(byte_level))
            .with_decoder(Some(byte_level));
        let trainer = BpeTrainer::builder()
            .vocab_size(vocab_size as usize)
            // A pair seen once is not worth a token.
            .min_frequency(2)
            .show_progress(false)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        let pieces: Vec<&str> = texts.flat_map(pieces).collect();
        inner
            .train(&mut TrainerWrapper::BpeTrainer(trainer), pieces.into_iter())
            .map_err(|e| failed(e.to_string()))?;
        Self::new(inner).map_err(failed)
    }

    pub(super) fn from_json(json: &[u8]) -> Result<Self, String> {
        let mut inner = tokenizers::Tokenizer::from_bytes(json).map_err(|e| e.to_string())?;
        // A file may carry settings for batches of short texts; a corpus must not be cut or padded.
        inner
            .with_padding(None)
            .with_truncation(None)
            .map_err(|e| e.to_string())?;
        Self::new(inner)
    }

    fn new(inner: tokenizers::Tokenizer) -> Result<Self, String> {
        if !matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_))) {
            return Err("its decoder is not ByteLevel".to_owned());
        }
        let byte_of: HashMap<char, u8> = byte_alphabet().into_iter().zip(0..=u8::MAX).collect();
        let added = inner.get_added_tokens_decoder();
        let vocabulary = inner.get_vocab(true);
        let size = vocabulary.values().max().map_or(0, |id| *id as usize + 1);
        let mut bytes = vec![None; size];
        for (token, id) in &vocabulary {
            let mapped: Option<Vec<u8>> = match added.contains_key(id) {
                true => None,
                false => token
                    .chars()
                    .map(|character| byte_of.get(&character).copied())
                    .collect(),
            };
            let token_bytes = mapped.unwrap_or_else(|| token.as_bytes().to_vec());
            bytes[*id as usize] = Some(token_bytes.into_boxed_slice());
        }
        if let Some(missing) = byte_alphabet()
            .into_iter()
            .position(|c| !vocabulary.contains_key(c.to_string().as_str()))
        {
            return Err(format!("it has no token for the byte {missing:#04x}"));
        }
        let json = inner.to_string(false).map_err(|e| e.to_string())?;
        Ok(Self { inner, bytes, json })
    }

    pub(super) fn json(&self) -> &str {
        &self.json
    }

    pub(super) fn vocab_size(&self) -> u32 {
        self.bytes.len() as u32
    }

    pub(super) fn token_bytes(&self, token: u32) -> Option<&[u8]> {
        self.bytes.get(token as usize)?.as_deref()
    }

    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let one = |piece: &str| match self.inner.encode_fast(piece, false) {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(error) => Err(DataError::Tokenizer {
                action: "encode",
                reason: error.to_string(),
            }),
        };
        match pieces(text).as_slice() {
            [] => Ok(Vec::new()),
            [piece] => one(piece),
            many => Ok(many
                .par_iter()
                .map(|piece| one(piece))
                .collect::<Result<Vec<_>, _>>()?
                .concat()),
        }
    }
}

/// Cuts `text` after single line feeds between two visible characters. Word splitting as in GPT-2, Llama 3 or Qwen
/// always breaks there, so encoding the pieces gives the same tokens as encoding the whole.
fn pieces(text: &str) -> Vec<&str> {
    let bytes = text.as_bytes();
    let is_cut = |at: usize| {
        bytes[at - 1] == b'\n' && bytes[at - 2].is_ascii_graphic() && bytes[at].is_ascii_graphic()
    };
    let mut pieces = Vec::with_capacity(text.len() / PIECE_BYTES + 1);
    let mut start = 0;
    while let Some(end) = (start + PIECE_BYTES..bytes.len()).find(|at| is_cut(*at)) {
        pieces.push(&text[start..end]);
        start = end;
    }
    if start < text.len() {
        pieces.push(&text[start..]);
    }
    pieces
}

/// The character that stands for each byte in a byte-level vocabulary (`bytes_to_unicode` of GPT-2): visible Latin-1
/// characters stand for themselves, the others are numbered from U+0100 on.
fn byte_alphabet() -> [char; 256] {
    let mut next = '\u{100}'..='\u{1ff}';
    std::array::from_fn(|byte| match byte as u8 {
        visible @ (b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) => char::from(visible),
        hidden => next.next().unwrap_or(char::from(hidden)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_the_library_s() {
        let library = ByteLevel::alphabet();
        assert!(
            byte_alphabet()
                .iter()
                .all(|character| library.contains(character))
        );
        assert_eq!(
            (
                byte_alphabet()[b' ' as usize],
                byte_alphabet()[b'\n' as usize]
            ),
            ('Ġ', 'Ċ')
        );
    }

    #[test]
    fn pieces_concatenate_to_the_text_and_do_not_change_the_tokens() {
        let text = "fn é() {\n    x\n\n}\n}\nlet y = 1;\n".repeat(6000);
        let parts = pieces(&text);
        assert!(parts.len() >= 2 && parts.concat() == text);
        let tokenizer = HuggingFaceTokenizer::train(std::iter::once(&text[..1000]), 300).unwrap();
        let whole = tokenizer.inner.encode_fast(text.as_str(), false).unwrap();
        assert_eq!(tokenizer.encode(&text).unwrap(), whole.get_ids());
        assert_eq!(pieces(""), Vec::<&str>::new());
        assert_eq!(pieces(&"\n".repeat(PIECE_BYTES + 2)).len(), 1);
    }

    #[test]
    fn vocabulary_sizes_are_checked_and_reached() {
        let message = HuggingFaceTokenizer::train(["text"].into_iter(), 100)
            .err()
            .unwrap()
            .to_string();
        assert!(
            message.starts_with("vocab_size = 100 is too small"),
            "{message}"
        );
        let tokenizer =
            HuggingFaceTokenizer::train(["the other, the one; the other"].into_iter(), 260)
                .unwrap();
        assert_eq!(tokenizer.vocab_size(), 260);
        assert!(tokenizer.encode(" the").unwrap().len() < 4);
    }

    #[test]
    fn files_of_another_kind_are_refused() {
        let tokenizer = HuggingFaceTokenizer::train(["a b"].into_iter(), 256).unwrap();
        let refused = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut json: serde_json::Value = serde_json::from_str(tokenizer.json()).unwrap();
            change(&mut json);
            HuggingFaceTokenizer::from_json(json.to_string().as_bytes())
                .err()
                .unwrap()
        };
        assert_eq!(
            refused(&|json| json["decoder"] = serde_json::Value::Null),
            "its decoder is not ByteLevel"
        );
        let without_a = refused(&|json| {
            json["model"]["vocab"].as_object_mut().unwrap().remove("a");
        });
        assert_eq!(without_a, "it has no token for the byte 0x61");
    }
}
