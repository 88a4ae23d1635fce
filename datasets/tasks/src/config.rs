//! The `[task]` section of a recipe.

use serde::{Deserialize, Serialize};

use crate::{
    Compression, FuzzyRecall, Generator, InductionHeads, ListOps, Memorization, Mqar, Recall,
    SelectiveCopying, TaskError,
};

/// A task, how many examples of it there are, and their seed. Exactly one of the tables must be there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct TaskConfig {
    /// Training examples; 0 draws new ones without end.
    #[serde(rename = "train_examples")]
    pub train_examples: u64,
    /// Examples of the validation split, and as many of the test split.
    #[serde(rename = "held_out_examples")]
    pub held_out_examples: u64,
    /// Seed of the examples. It is not the run's, so that runs with several seeds are scored on the same examples.
    pub seed: u64,
    /// Multi-query associative recall.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mqar: Option<Mqar>,
    /// In-context recall, with noise or without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recall: Option<Recall>,
    /// Recall of keys and values of several tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fuzzy_recall: Option<FuzzyRecall>,
    /// Selective copying.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selective_copying: Option<SelectiveCopying>,
    /// Memorization of a fixed dictionary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memorization: Option<Memorization>,
    /// Compression of random tokens into one vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// Induction heads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub induction_heads: Option<InductionHeads>,
    /// ListOps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub list_ops: Option<ListOps>,
}

impl Default for TaskConfig {
    fn default() -> Self {
        Self {
            train_examples: 0,
            held_out_examples: 1000,
            seed: 0,
            mqar: None,
            recall: None,
            fuzzy_recall: None,
            selective_copying: None,
            memorization: None,
            compression: None,
            induction_heads: None,
            list_ops: None,
        }
    }
}

/// A task behind its table.
type Entry<'a> = (&'static str, Option<&'a dyn Generator>);

impl TaskConfig {
    fn entries(&self) -> [Entry<'_>; 8] {
        fn some<G: Generator>(generator: &Option<G>) -> Option<&dyn Generator> {
            generator.as_ref().map(|generator| generator as _)
        }
        [
            ("mqar", some(&self.mqar)),
            ("recall", some(&self.recall)),
            ("fuzzy-recall", some(&self.fuzzy_recall)),
            ("selective-copying", some(&self.selective_copying)),
            ("memorization", some(&self.memorization)),
            ("compression", some(&self.compression)),
            ("induction-heads", some(&self.induction_heads)),
            ("list-ops", some(&self.list_ops)),
        ]
    }

    fn the_one(&self) -> Result<(&'static str, &dyn Generator), TaskError> {
        let entries = self.entries();
        let mut there = entries
            .iter()
            .filter_map(|&(name, task)| Some((name, task?)));
        match (there.next(), there.next()) {
            (Some(one), None) => Ok(one),
            (first, second) => Err(TaskError::Kind {
                known: entries.map(|(name, _)| format!("[task.{name}]")).join(", "),
                found: match (first, second) {
                    (Some((first, _)), Some((second, _))) => {
                        format!("there are [task.{first}] and [task.{second}]")
                    }
                    _ => "there is none".into(),
                },
            }),
        }
    }

    pub(crate) fn generator(&self) -> Result<&dyn Generator, TaskError> {
        Ok(self.the_one()?.1)
    }

    /// The task's name.
    ///
    /// # Errors
    /// [`TaskError::Kind`].
    pub fn name(&self) -> Result<&'static str, TaskError> {
        Ok(self.the_one()?.0)
    }

    /// Tokens of its vocabulary.
    ///
    /// # Errors
    /// [`TaskError::Kind`].
    pub fn vocab_size(&self) -> Result<usize, TaskError> {
        Ok(self.generator()?.vocab_size())
    }

    /// Tokens of an example that a model sees.
    ///
    /// # Errors
    /// [`TaskError::Kind`].
    pub fn seq(&self) -> Result<usize, TaskError> {
        Ok(self.generator()?.seq())
    }

    /// The same task with examples of another length, `seq` tokens for the model: for scoring beyond the trained length.
    #[must_use]
    pub fn with_seq(mut self, seq: usize) -> Self {
        // The last token of a stream is a target only.
        let stream = seq.saturating_add(1);
        for (length, wanted) in [
            (self.mqar.as_mut().map(|task| &mut task.length), seq),
            (self.recall.as_mut().map(|task| &mut task.length), stream),
            (
                self.fuzzy_recall.as_mut().map(|task| &mut task.length),
                stream,
            ),
            (
                self.selective_copying.as_mut().map(|task| &mut task.length),
                seq,
            ),
            (self.memorization.as_mut().map(|task| &mut task.length), seq),
            (self.compression.as_mut().map(|task| &mut task.length), seq),
            (
                self.induction_heads.as_mut().map(|task| &mut task.length),
                seq,
            ),
            (self.list_ops.as_mut().map(|task| &mut task.length), seq),
        ] {
            if let Some(length) = length {
                *length = wanted;
            }
        }
        self
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// Names the first that cannot be drawn.
    pub fn validate(&self) -> Result<(), TaskError> {
        if self.held_out_examples == 0 {
            return Err(TaskError::setting(
                "held_out_examples",
                0,
                "it must be at least 1",
            ));
        }
        self.generator()?.validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_one_table() {
        let parse = |text: &str| toml::from_str::<TaskConfig>(text);
        let task = parse("train_examples = 5\n[mqar]\npairs = 8").unwrap();
        assert_eq!(task.mqar.as_ref().unwrap().pairs, 8);
        assert_eq!((task.name().unwrap(), task.seq().unwrap()), ("mqar", 64));
        let error = |text: &str| parse(text).unwrap().validate().unwrap_err().to_string();
        assert!(error("").ends_with("[task.list-ops]; there is none"));
        assert!(
            error("[mqar]\n[fuzzy-recall]")
                .ends_with("there are [task.mqar] and [task.fuzzy-recall]")
        );
        assert_eq!(
            error("held_out_examples = 0\n[mqar]"),
            "task setting `held_out_examples` = 0: it must be at least 1"
        );
        assert!(parse("[mqar]\npears = 8").is_err());
        let written = toml::to_string(&task).unwrap();
        assert!(!written.contains("recall"), "{written}");
        assert_eq!(parse(&written).unwrap(), task);
    }
}
