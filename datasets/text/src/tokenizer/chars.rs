//! One token per character, numbered in the order of their code points as nanoGPT does.

use crate::error::DataError;

/// A sorted alphabet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CharVocabulary(Vec<char>);

impl CharVocabulary {
    /// The distinct characters of `texts`.
    pub fn of<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        // A table of flags: sorting or hashing every character of a corpus takes many times longer.
        let mut seen = vec![false; char::MAX as usize + 1];
        texts
            .into_iter()
            .flat_map(str::chars)
            .for_each(|character| seen[character as usize] = true);
        Self(
            ('\0'..=char::MAX)
                .filter(|character| seen[*character as usize])
                .collect(),
        )
    }

    /// The alphabet; the position of a character is its token id.
    pub fn characters(&self) -> &[char] {
        &self.0
    }

    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let token = |(offset, character)| match self.0.binary_search(&character) {
            Ok(index) => Ok(index as u32),
            Err(_) => Err(DataError::UnknownCharacter {
                character,
                offset,
                vocab_size: self.0.len() as u32,
            }),
        };
        text.char_indices().map(token).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_ranks_in_the_sorted_alphabet() {
        let vocabulary = CharVocabulary::of(["banana", "é"]);
        assert_eq!(vocabulary.characters(), ['a', 'b', 'n', 'é']);
        assert_eq!(vocabulary.encode("nabé").unwrap(), [2, 0, 1, 3]);
    }
}
