//! ListOps (Nangia and Bowman, arXiv 1804.06028), drawn as in Long Range Arena (Tay et al., arXiv 2011.04006, section 2.2.1).
//!
//! `[MAX 4 [MIN 2 7 ] 1 [MED 3 9 5 ] ]` is 5: lists of digits and lists under minimum, maximum, median and sum modulo 10. At each
//! level below the deepest, an argument is a list of 2 to `max_args` arguments with probability 1/4 and a digit otherwise.
//! Expressions of a length out of bounds are drawn again.
//!
//! | position | 0 | ... | | | | length - 1 |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | input | pad | ... | [MAX | 4 | ... | ] |
//! | target | | | | | | 5 |
//!
//! Expressions stand at the end of the example, so that the answer is asked for at its last position.

use kiln_loader::random::below;
use kiln_loader::{Lane, Split};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{Generator, TaskError};

const OPERATORS: [Operator; 4] = [
    Operator::Min,
    Operator::Max,
    Operator::Median,
    Operator::SumModulo,
];
/// Tokens 0 to 9 are digits, then the operators with their opening bracket.
const FIRST_OPERATOR: u32 = 10;
const CLOSE: u32 = 14;
const PAD: u32 = 15;
const VOCAB: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Min,
    Max,
    Median,
    SumModulo,
}

/// ListOps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListOps {
    /// Most tokens of an expression: those of an example.
    pub length: usize,
    /// Least tokens of an expression.
    pub least: usize,
    /// Levels of lists at most.
    pub max_depth: usize,
    /// Arguments of a list at most.
    pub max_args: usize,
}

impl Default for ListOps {
    /// Long Range Arena's.
    fn default() -> Self {
        Self {
            length: 2000,
            least: 500,
            max_depth: 10,
            max_args: 10,
        }
    }
}

impl Generator for ListOps {
    fn validate(&self) -> Result<(), TaskError> {
        TaskError::at_least("list-ops.max_depth", self.max_depth, 1)?;
        TaskError::at_least("list-ops.max_args", self.max_args, 2)?;
        TaskError::at_least("list-ops.least", self.least, 4)?;
        // Drawing again must come to an end: the bounds have to leave room, and the levels have to fill it.
        let twice = 2 * self.least;
        if self.length < twice {
            let why = format!("it must be at least twice `list-ops.least`, {twice}");
            return Err(TaskError::setting("list-ops.length", self.length, why));
        }
        let most = (1..self.max_depth).fold(self.max_args + 2, |tokens, _| {
            tokens.saturating_mul(self.max_args).saturating_add(2)
        });
        if most < 4 * self.least {
            let why = format!(
                "expressions have at most {most} tokens with `max_depth` and `max_args`: at most a quarter of that, or hardly any is long enough"
            );
            return Err(TaskError::setting("list-ops.least", self.least, why));
        }
        Ok(())
    }

    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn seq(&self) -> usize {
        self.length
    }

    fn draw(&self, rng: &mut ChaCha8Rng, _: Split, lane: Lane<'_>) {
        let mut tokens = Vec::with_capacity(self.length);
        let value = loop {
            tokens.clear();
            let value = self.expression(rng, 1, &mut tokens);
            if let Some(value) = value.filter(|_| tokens.len() >= self.least) {
                break value;
            }
        };
        let start = self.length - tokens.len();
        lane.inputs[..start].fill(PAD);
        lane.inputs[start..].copy_from_slice(&tokens);
        lane.targets[self.length - 1] = value;
        lane.mask[self.length - 1] = true;
    }
}

impl ListOps {
    /// Appends a list of the given level and gives its value; none once it is too long.
    fn expression(&self, rng: &mut ChaCha8Rng, depth: usize, tokens: &mut Vec<u32>) -> Option<u32> {
        let number = below(rng, OPERATORS.len() as u64) as usize;
        tokens.push(FIRST_OPERATOR + number as u32);
        let count = 2 + below(rng, self.max_args as u64 - 1);
        let mut arguments = Vec::with_capacity(count as usize);
        for _ in 0..count {
            // The closing bracket needs a place too.
            if tokens.len() + 1 >= self.length {
                return None;
            }
            let is_list = depth < self.max_depth && below(rng, 4) == 0;
            arguments.push(match is_list {
                true => self.expression(rng, depth + 1, tokens)?,
                false => {
                    let digit = below(rng, 10) as u32;
                    tokens.push(digit);
                    digit
                }
            });
        }
        tokens.push(CLOSE);
        (tokens.len() <= self.length).then(|| OPERATORS[number].of(arguments))
    }
}

impl Operator {
    /// The value of a list; the median of an even number is the mean of the middle two, rounded down, as in the original.
    fn of(self, mut arguments: Vec<u32>) -> u32 {
        arguments.sort_unstable();
        let (first, last) = (arguments[0], arguments[arguments.len() - 1]);
        match self {
            Self::Min => first,
            Self::Max => last,
            Self::Median => {
                let [low, high] = [(arguments.len() - 1) / 2, arguments.len() / 2];
                (arguments[low] + arguments[high]) / 2
            }
            Self::SumModulo => arguments.iter().sum::<u32>() % 10,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::draw;

    /// A second reading of the definition, with a stack instead of recursion.
    fn evaluate(tokens: &[u32]) -> u32 {
        let mut stack: Vec<(u32, Vec<u32>)> = vec![];
        for &token in tokens {
            match token {
                10..14 => stack.push((token, vec![])),
                CLOSE => {
                    let (operator, mut values) = stack.pop().unwrap();
                    values.sort_unstable();
                    let n = values.len();
                    let value = match operator {
                        10 => values[0],
                        11 => values[n - 1],
                        12 if n % 2 == 1 => values[n / 2],
                        12 => (values[n / 2 - 1] + values[n / 2]) / 2,
                        _ => values.iter().sum::<u32>() % 10,
                    };
                    match stack.last_mut() {
                        Some((_, values)) => values.push(value),
                        None => return value,
                    }
                }
                digit => stack.last_mut().unwrap().1.push(digit),
            }
        }
        panic!("not closed: {tokens:?}");
    }

    #[test]
    fn answers_are_the_values_of_the_expressions() {
        let task = ListOps {
            length: 120,
            least: 20,
            ..Default::default()
        };
        task.validate().unwrap();
        let mut answers = [0; 10];
        for number in 0..500 {
            let drawn = draw(&task, Split::Test, number);
            let start = drawn.inputs.iter().position(|id| *id != PAD).unwrap();
            let expression = &drawn.inputs[start..];
            assert!((20..=120).contains(&expression.len()));
            assert_eq!(drawn.counted(), [119]);
            let answer = drawn.targets[119];
            assert_eq!(answer, evaluate(expression), "{expression:?}");
            answers[answer as usize] += 1;
        }
        assert!(answers.iter().all(|count| *count > 5), "{answers:?}");
    }

    /// By hand: [SM 9 [MIN 2 7] [MED 3 9 5 8]] = (9 + 2 + 6) mod 10.
    #[test]
    fn one_by_hand() {
        assert_eq!(Operator::Min.of(vec![2, 7]), 2);
        assert_eq!(Operator::Median.of(vec![3, 9, 5, 8]), 6);
        assert_eq!(Operator::SumModulo.of(vec![9, 2, 6]), 7);
        assert_eq!(Operator::Max.of(vec![1, 4, 0]), 4);
        assert_eq!(evaluate(&[13, 9, 10, 2, 7, 14, 12, 3, 9, 5, 8, 14, 14]), 7);
    }

    #[test]
    fn what_cannot_be_drawn_is_named() {
        let error = |task: ListOps| task.validate().unwrap_err().to_string();
        let base = ListOps::default;
        assert!(
            error(ListOps {
                length: 900,
                ..base()
            })
            .contains("at least twice")
        );
        assert!(
            error(ListOps {
                max_depth: 2,
                ..base()
            })
            .contains("at most 122 tokens")
        );
    }
}
