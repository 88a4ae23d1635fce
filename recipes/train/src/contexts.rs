//! Loss against context: sliding windows of several lengths over the same targets.

use std::sync::Arc;

use kiln_loader::Windows;
use kiln_text::{TextWindows, TokenStore};
use kiln_zoo::LanguageModel;

use crate::TrainError;
use crate::evaluate::{Evaluator, Score};
use crate::recipe::{ObjectiveKind, TrainRecipe};

/// Lengths of context that a model is scored at. Every target counts once at each of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contexts {
    /// Tokens of a window, increasing.
    pub lengths: Vec<usize>,
    /// Tokens from one window to the next; 0 is half of each length.
    pub stride: usize,
    /// Most targets; 0 is all.
    pub most: u64,
}

/// What a model scores with windows of one length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ContextScore {
    /// Tokens of a window: the most that a target sees.
    pub context: usize,
    /// The least that a target sees, but for those at the beginning of the split.
    pub least: usize,
    /// Sums over the targets.
    pub score: Score,
}

/// Windows of one length.
pub(crate) struct Sliding {
    pub context: usize,
    least: usize,
    pub windows: Arc<dyn Windows>,
}

impl Sliding {
    /// What was found with them.
    pub fn scored(&self, scores: &[Score]) -> ContextScore {
        ContextScore {
            context: self.context,
            least: self.least,
            score: Score::total(scores),
        }
    }
}

impl ContextScore {
    /// Name of its loss in the final record of a run.
    pub fn key(&self) -> String {
        format!("{CONTEXT_KEY}{}", self.context)
    }
}

/// How the name of a loss with one length of context begins in the final record of a run; the length in tokens follows.
pub const CONTEXT_KEY: &str = "validation_loss_context_";

impl Contexts {
    /// What a recipe asks for; none if it names no length.
    pub(crate) fn of(recipe: &TrainRecipe, seq: usize) -> Option<Self> {
        let train = &recipe.train;
        (!train.contexts.is_empty()).then(|| Self {
            lengths: train.contexts.clone(),
            stride: train.context_stride,
            most: (train.sweep_windows * seq) as u64,
        })
    }

    /// Tokens from one window of this length to the next.
    fn stride(&self, length: usize) -> usize {
        match self.stride {
            0 => length.div_ceil(2),
            stride => stride,
        }
    }

    /// Windows of every length over the same targets, with the least that a target sees in them.
    ///
    /// # Errors
    /// A split that does not fill a window.
    pub(crate) fn windows(&self, store: &Arc<TokenStore>) -> Result<Vec<Sliding>, TrainError> {
        let longest = self.lengths.iter().max().copied().unwrap_or(0);
        // The first window of the longest context sets the least number of targets, which all lengths share.
        let most = match self.most {
            0 => 0,
            most => most.max(longest as u64),
        };
        let sliding = |&context: &usize| {
            let stride = self.stride(context);
            let windows = TextWindows::sliding(Arc::clone(store), context, stride, most)?;
            Ok(Sliding {
                context,
                least: context - stride + 1,
                windows: Arc::new(windows),
            })
        };
        self.lengths.iter().map(sliding).collect()
    }

    /// Refuses lengths that are not increasing, and a stride that would leave targets out.
    ///
    /// # Errors
    /// Names `key` or `stride_key`.
    pub fn validate(&self, key: &'static str, stride_key: &'static str) -> Result<(), TrainError> {
        let shown = || format!("{:?}", self.lengths);
        let increasing = self.lengths.windows(2).all(|pair| pair[0] < pair[1]);
        let Some(&least) = self
            .lengths
            .first()
            .filter(|least| **least > 0 && increasing)
        else {
            let why =
                "it must be a list of lengths of at least 1 token, each longer than the one before";
            return Err(TrainError::setting(key, shown(), why));
        };
        match self.stride > least {
            true => Err(TrainError::setting(
                stride_key,
                self.stride,
                format!(
                    "windows of {least} tokens would leave targets out: give at most {least}, or 0 for half of each length"
                ),
            )),
            false => Ok(()),
        }
    }
}

impl Evaluator<'_> {
    /// Scores of a model without autodiff with windows of several lengths that slide over a split: at each length the same targets,
    /// each once, so that the scores differ by what the model can make of its context. `tokens` are those of one forward pass, or
    /// of one window where that is longer.
    ///
    /// # Errors
    /// A model that does not predict next tokens; a split that does not fill a window; more tokens than learned positions.
    pub fn contexts(
        &self,
        model: &LanguageModel,
        store: &Arc<TokenStore>,
        contexts: &Contexts,
        tokens: usize,
    ) -> Result<Vec<ContextScore>, TrainError> {
        if self.objective.kind != ObjectiveKind::NextToken {
            let why = "masked tokens see both sides, and no context grows behind them: leave the lengths out";
            return Err(TrainError::setting("contexts", "masked-token", why));
        }
        let score = |sliding: Sliding| {
            let batch = (tokens / sliding.context).max(1);
            let scores = self.sequential(model, &sliding.windows, [batch, 0])?;
            Ok(sliding.scored(&scores))
        };
        let windows = contexts.windows(store)?;
        windows.into_iter().map(score).collect()
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use crate::recipe::Objective;
    use burn::tensor::Device;
    use kiln_zoo::ModelConfig;

    fn contexts(lengths: &[usize], stride: usize, most: u64) -> Contexts {
        Contexts {
            lengths: lengths.to_vec(),
            stride,
            most,
        }
    }

    /// One target at a time with all the context there is: what a stride of 1 has to give.
    #[test]
    fn a_stride_of_one_gives_every_target_its_whole_context() {
        let device = Device::flex();
        let mut config = ModelConfig::preset("resolvent-tiny").unwrap();
        config.backbone.vocab_size = 13;
        let model = config.init(5, &device).unwrap();
        let tokens: Vec<u32> = (0..40).map(|i| (7 * i * i + i) % 13).collect();
        let store = Arc::new(TokenStore::from_tokens(tokens.clone(), 40, 13).unwrap());
        let evaluator = Evaluator {
            objective: Objective::default(),
            vocab: 13,
            device: &device,
        };
        let asked = contexts(&[1, 4, 9], 1, 0);
        let found = evaluator.contexts(&model, &store, &asked, 24).unwrap();
        for score in &found {
            assert_eq!((score.score.tokens, score.least), (39, score.context));
            let mut nats = 0.0;
            for target in 1..40 {
                let first = target - target.min(score.context);
                let own = TokenStore::from_tokens(tokens[first..=target].to_vec(), 1, 13).unwrap();
                let whole = contexts(&[target - first], 0, 0);
                let own = evaluator
                    .contexts(&model, &Arc::new(own), &whole, 1)
                    .unwrap();
                // Of the window of all its targets the last one's: that of the whole less that of all but the last.
                let all = own[0].score.nats;
                let before = match target - first {
                    1 => 0.0,
                    length => {
                        let less = tokens[first..target].to_vec();
                        let less = TokenStore::from_tokens(less, 1, 13).unwrap();
                        let whole = contexts(&[length - 1], 0, 0);
                        let less = evaluator.contexts(&model, &Arc::new(less), &whole, 1);
                        less.unwrap()[0].score.nats
                    }
                };
                nats += all - before;
            }
            // Sums of f32 losses in another order.
            assert!(
                (score.score.nats - nats).abs() < 1e-3,
                "{} {nats}",
                score.score.nats
            );
        }
        // Fewer targets, the same ones at every length, and no fewer than the longest window has.
        for (most, expected) in [(20, 20), (3, 9)] {
            let some = contexts(&[2, 9], 0, most);
            let some = evaluator.contexts(&model, &store, &some, 8).unwrap();
            assert!(some.iter().all(|score| score.score.tokens == expected));
        }
    }

    #[test]
    fn lengths_and_stride_are_checked() {
        let refused = |lengths: &[usize], stride| {
            let asked = contexts(lengths, stride, 0);
            asked.validate("c", "s").unwrap_err().to_string()
        };
        for lengths in [&[][..], &[0, 4], &[8, 4], &[4, 4]] {
            let error = refused(lengths, 0);
            assert!(
                error.contains("`c` is [") && error.contains("longer than"),
                "{error}"
            );
        }
        assert!(refused(&[4, 8], 5).contains("`s` is 5, but windows of 4 tokens"));
        contexts(&[4, 8], 4, 0).validate("c", "s").unwrap();
    }
}
