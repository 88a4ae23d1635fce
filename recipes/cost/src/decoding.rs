//! Decoding from a run's folder on: once as a program that was just started does it, then again and again.

use std::path::Path;
use std::time::Instant;

use burn::tensor::{Int, Tensor};
use kiln_train::OpenDevice;
use serde::{Deserialize, Serialize};

use crate::measure::{Worker, outcome};
use crate::meters::{EnergyMeter, MemoryMeter};
use crate::{CostError, Outcome, Pace, Subject};

/// Tokens of the first pass.
const COLD_TOKENS: usize = 32;

/// What decoding one sequence takes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decoding {
    /// From the folder on, for the first time.
    pub cold: ColdStart,
    /// A token after the other, when all that is prepared once is there.
    pub warm: Pace,
}

/// The first tokens of a model that was not open before. Its file may be in the system's cache; kernels that an earlier run of the
/// process compiled stay compiled.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColdStart {
    /// Seconds from the folder to the first token: the file is read and checked, weights go to the device, the prompt is taken in.
    pub first_token_seconds: f64,
    /// Tokens a second from the folder to the last of the first 32, or of as many as learned positions leave room for.
    pub tokens_per_second: f64,
    /// The most memory in bytes that this took beyond what was in use before: weights, state, and what is needed on the way. On the CPU
    /// of the resident set, where pages that the process had freed and kept are not counted; none where it is not known.
    pub memory_bytes: Option<u64>,
}

/// Decodes one sequence of the model in a run's folder, from a random prompt of `length` tokens on: first cold, then warm for about
/// `seconds`. None for a bidirectional model, and where learned positions end with the prompt.
///
/// # Errors
/// A run that cannot be opened; [`CostError::Decoding`] with what the model or the backend said.
pub fn decoding(
    run: &Path,
    device: &OpenDevice,
    length: usize,
    seconds: f64,
) -> Result<Option<Decoding>, CostError> {
    let device = &device.device;
    let memory = MemoryMeter::start(device);
    let start = Instant::now();
    let subject = Subject::of_run(run, device)?;
    if !subject.model.is_causal() {
        return Ok(None);
    }
    let worker = Worker {
        subject: &subject,
        device,
        energy: EnergyMeter::open(device),
    };
    let decoded = outcome(|| {
        let model = &subject.model;
        let empty = model.initial_state(1, device)?;
        let prompt = worker.prompt([1, length]);
        let (logits, prompt) = model.forward_with_state(prompt, empty)?;
        let [_, seq, vocab] = logits.dims();
        let last: Tensor<2> = logits.slice([0..1, seq - 1..seq, 0..vocab]).squeeze_dim(1);
        let mut token = likeliest(last);
        // A token is there when the host has it.
        token.to_data();
        let first = start.elapsed().as_secs_f64();
        // The first token comes with the prompt.
        let more = worker.places(&prompt, COLD_TOKENS - 1);
        let mut state = prompt.clone();
        for _ in 0..more {
            let (logits, next) = model.step(token, state)?;
            token = likeliest(logits);
            token.to_data();
            state = next;
        }
        let cold = ColdStart {
            first_token_seconds: first,
            tokens_per_second: (1 + more) as f64 / start.elapsed().as_secs_f64(),
            memory_bytes: memory.growth(),
        };
        drop(state);
        let warm = worker.decode(1, &prompt, seconds)?;
        Ok(warm.map(|warm| Decoding { cold, warm }))
    });
    match decoded {
        Outcome::Measured(found) => Ok(found),
        Outcome::LeftOut { reason } | Outcome::Failed { reason } => {
            Err(CostError::Decoding(reason))
        }
    }
}

/// The likeliest token of scores `[1, vocab]`.
fn likeliest(scores: Tensor<2>) -> Tensor<1, Int> {
    scores.argmax(1).squeeze_dim(1)
}
