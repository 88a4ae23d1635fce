//! Text out of a model, one token at a time.

use burn::tensor::{Device, Int, Tensor, TensorData};
use kiln_text::{StreamDecoder, Tokenizer};
use kiln_zoo::{LanguageModel, ModelError, ModelState};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::TrainError;

/// How text is sampled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SampleConfig {
    /// Text to continue.
    pub prompt: String,
    /// Tokens to add.
    pub tokens: usize,
    /// Divides the scores; 0 takes the likeliest token every time.
    pub temperature: f64,
    /// Only the likeliest `top_k` tokens are drawn from; 0 is all.
    pub top_k: usize,
    /// Only the likeliest tokens that together reach this probability are drawn from (arXiv 1904.09751); 1 is all.
    pub top_p: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for SampleConfig {
    fn default() -> Self {
        Self {
            prompt: "\n".into(),
            tokens: 300,
            temperature: 0.8,
            top_k: 0,
            top_p: 0.95,
            seed: 1,
        }
    }
}

impl SampleConfig {
    /// Checks ranges.
    ///
    /// # Errors
    /// Names the first key out of its range.
    pub fn validate(&self) -> Result<(), TrainError> {
        if self.prompt.is_empty() {
            return Err(TrainError::EmptyPrompt);
        }
        if !(0.0..=100.0).contains(&self.temperature) {
            return Err(TrainError::setting(
                "sample.temperature",
                self.temperature,
                "must lie in [0, 100]",
            ));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(TrainError::setting(
                "sample.top_p",
                self.top_p,
                "must lie in (0, 1]",
            ));
        }
        Ok(())
    }
}

/// Continues `config.prompt`, handing text to `sink` as soon as it is whole; returns the continuation.
///
/// The model must be without autodiff (`Module::valid`). Recurrent models keep constant state for any length; a model with
/// learned positions goes on from the last half of its context when the positions are used up.
///
/// # Errors
/// [`TrainError::EmptyPrompt`], a setting out of range, text the tokenizer does not know, a bidirectional model.
pub fn generate(
    model: &LanguageModel,
    tokenizer: &Tokenizer,
    config: &SampleConfig,
    device: &Device,
    sink: &mut dyn FnMut(&str),
) -> Result<String, TrainError> {
    config.validate()?;
    let mut tokens = tokenizer.encode(&config.prompt)?;
    if tokens.is_empty() {
        return Err(TrainError::EmptyPrompt);
    }
    // Ids above the tokenizer's are the mask token, which is no text.
    let vocab = tokenizer.vocab_size() as usize;
    let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
    let mut decoder = StreamDecoder::new(tokenizer);
    let mut text = String::new();
    let mut emit = |piece: &str| {
        if !piece.is_empty() {
            sink(piece);
            text.push_str(piece);
        }
    };
    let (mut scores, mut state) = prefill(model, &tokens, device)?;
    for left in (0..config.tokens).rev() {
        let token = sample(&scores[..vocab], config, &mut rng);
        tokens.push(token);
        emit(&decoder.push(token)?);
        if left == 0 {
            break;
        }
        let input = Tensor::<1, Int>::from_data(TensorData::new(vec![token as i32], [1]), device);
        (scores, state) = match model.step(input, state) {
            Ok((logits, next)) => (read(logits), next),
            Err(ModelError::TooLong { max_seq, .. }) => {
                let recent = &tokens[tokens.len().saturating_sub(max_seq.div_ceil(2))..];
                prefill(model, recent, device)?
            }
            Err(error) => return Err(error.into()),
        };
    }
    emit(&decoder.finish());
    Ok(text)
}

/// Feeds the prompt at once; a prompt beyond learned positions keeps its end.
fn prefill(
    model: &LanguageModel,
    tokens: &[u32],
    device: &Device,
) -> Result<(Vec<f32>, ModelState), TrainError> {
    let run = |tokens: &[u32]| {
        let ids: Vec<i32> = tokens.iter().map(|&id| id as i32).collect();
        let input = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, tokens.len()]), device);
        let state = model.initial_state(1, device)?;
        let (logits, state) = model.forward_with_state(input, state)?;
        let [_, seq, vocab] = logits.dims();
        let last = logits.narrow(1, seq - 1, 1).reshape([1, vocab]);
        Ok((read(last), state))
    };
    match run(tokens) {
        Err(ModelError::TooLong { max_seq, .. }) => {
            Ok(run(&tokens[tokens.len() - max_seq.div_ceil(2)..])?)
        }
        other => Ok(other?),
    }
}

fn read(logits: Tensor<2>) -> Vec<f32> {
    logits.into_data().iter::<f32>().collect()
}

/// Draws a token id from scores. In f64 on the host: the same seed gives the same text wherever scores agree.
pub(crate) fn sample(scores: &[f32], config: &SampleConfig, rng: &mut ChaCha8Rng) -> u32 {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    // Equal scores keep the order of their ids.
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    if config.temperature == 0.0 {
        return order[0] as u32;
    }
    if config.top_k > 0 {
        order.truncate(config.top_k);
    }
    let best = f64::from(scores[order[0]]);
    let mut weights: Vec<f64> = order
        .iter()
        .map(|&id| ((f64::from(scores[id]) - best) / config.temperature).exp())
        .collect();
    let total: f64 = weights.iter().sum();
    let mut kept = 0.0;
    let enough = weights.iter().position(|weight| {
        kept += weight;
        kept >= config.top_p * total
    });
    weights.truncate(enough.map_or(weights.len(), |last| last + 1));
    let mut draw = rng.random::<f64>() * weights.iter().sum::<f64>();
    for (&id, weight) in order.iter().zip(&weights) {
        draw -= weight;
        if draw < 0.0 {
            return id as u32;
        }
    }
    order[weights.len() - 1] as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(config: &SampleConfig, scores: &[f32]) -> Vec<usize> {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut counts = vec![0; scores.len()];
        for _ in 0..10_000 {
            counts[sample(scores, config, &mut rng) as usize] += 1;
        }
        counts
    }

    fn config(temperature: f64, top_k: usize, top_p: f64) -> SampleConfig {
        SampleConfig {
            temperature,
            top_k,
            top_p,
            ..Default::default()
        }
    }

    #[test]
    fn frequencies_follow_the_scores() {
        // Probabilities 0.5, 0.3, 0.2.
        let scores = [0.5_f32.ln(), 0.3_f32.ln(), 0.2_f32.ln()];
        let counts = draws(&config(1.0, 0, 1.0), &scores);
        for (count, p) in counts.iter().zip([0.5, 0.3, 0.2]) {
            // Five standard deviations of a binomial of 10,000.
            assert!((*count as f64 - 1e4 * p).abs() < 250.0, "{counts:?}");
        }
    }

    #[test]
    fn cuts_cut() {
        let scores = [0.2_f32.ln(), 0.5_f32.ln(), 0.3_f32.ln()];
        assert_eq!(draws(&config(0.0, 0, 1.0), &scores), [0, 10_000, 0]);
        assert_eq!(draws(&config(1.0, 2, 1.0), &scores)[0], 0);
        assert_eq!(draws(&config(1.0, 0, 0.6), &scores)[0], 0);
        assert_eq!(draws(&config(1.0, 0, 0.4), &scores), [0, 10_000, 0]);
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let error = config(-1.0, 0, 1.0).validate().unwrap_err().to_string();
        assert_eq!(
            error,
            "recipe: `sample.temperature` is -1, but must lie in [0, 100]"
        );
        let empty = SampleConfig {
            prompt: String::new(),
            ..Default::default()
        };
        assert!(matches!(empty.validate(), Err(TrainError::EmptyPrompt)));
    }
}
