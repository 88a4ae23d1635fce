//! Text that the teacher writes before the first step, kept on disk by everything that it depends on.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use burn::tensor::{Int, Tensor, TensorData};
use kiln_distill::{MixedWindows, WrittenConfig};
use kiln_loader::random::{below, random};
use kiln_loader::{Lane, Windows};
use kiln_run::{FileError, Interrupt, View};
use kiln_text::shard::{self, ShardIdentity};
use kiln_text::{Hash, TokenStore};
use rand_chacha::ChaCha8Rng;

use super::Tutor;
use crate::TrainError;
use crate::data::{Source, Text};
use crate::generate::{SampleConfig, sample};

/// Windows of a shard: little is lost when the writing is stopped.
const SHARD_WINDOWS: u64 = 1024;
/// Windows that are written side by side.
const LANES: u64 = 64;
/// Stream of the draws of prompts.
const PROMPTS: u8 = 0xd2;
/// Stream of the draws of tokens.
const TOKENS: u8 = 0xd3;

/// Windows that a teacher wrote.
#[derive(Debug)]
struct WrittenWindows {
    shards: Vec<TokenStore>,
    windows: u64,
    seq: usize,
    /// Tokens at the beginning that are not the teacher's.
    prompt: usize,
}

impl Windows for WrittenWindows {
    fn seq(&self) -> usize {
        self.seq
    }

    fn places(&self) -> u64 {
        self.windows
    }

    fn stride(&self) -> u64 {
        1
    }

    fn read(&self, place: u64, lane: Lane<'_>) {
        let store = &self.shards[(place / SHARD_WINDOWS) as usize];
        let length = self.seq as u64 + 1;
        let first = place % SHARD_WINDOWS * length;
        let mut tokens = Vec::with_capacity(self.seq + 1);
        store.read(first..first + length, &mut tokens);
        lane.inputs.copy_from_slice(&tokens[..self.seq]);
        lane.targets.copy_from_slice(&tokens[1..]);
        lane.mask[self.prompt - 1..].fill(true);
    }
}

/// The folder of a teacher's text; locked while it is filled.
struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    fn open(path: PathBuf, view: &mut View) -> Result<Self, TrainError> {
        fs::create_dir_all(&path).map_err(FileError::io("create", &path))?;
        let name = path.join("lock");
        let lock = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&name)
            .map_err(FileError::io("create", &name))?;
        if lock.try_lock().is_err() {
            view.message("teacher: another process lets it write; waiting");
            lock.lock().map_err(FileError::io("lock", &name))?;
        }
        Ok(Self { path, _lock: lock })
    }

    fn shard(&self, number: u64) -> PathBuf {
        self.path.join(format!("written-{number:06}.tokens"))
    }
}

impl Tutor {
    /// The windows of a run whose teacher writes, `data` being those of the training text; `data` itself where it does not. None if
    /// it was stopped before all was written.
    ///
    /// # Errors
    /// A prompt that leaves nothing to write, a full disk, a damaged shard, and those of the model.
    pub(crate) fn written(
        &self,
        data: &Arc<dyn Windows>,
        source: &Source,
        caches: &Path,
        view: &mut View,
        interrupt: &Interrupt,
    ) -> Result<Option<Arc<dyn Windows>>, TrainError> {
        let (Some(config), Some(text)) = (&self.config.text, source.text()) else {
            return Ok(Some(Arc::clone(data)));
        };
        let seq = data.seq();
        if config.prompt > seq {
            let why = format!(
                "a window has {} tokens, and the teacher has to write some of them",
                seq + 1
            );
            return Err(TrainError::setting(
                "distill.text.prompt",
                config.prompt,
                why,
            ));
        }
        let key = self.text_key(config, source, seq)?;
        let identity = identity(text, &key);
        let path = caches
            .join("teachers")
            .join(format!("text-{}", key.short()));
        let folder = Folder::open(path, view)?;
        let shards: Vec<u64> = (0..config.windows.div_ceil(SHARD_WINDOWS)).collect();
        let missing: Vec<u64> = shards
            .iter()
            .copied()
            .filter(|shard| !folder.shard(*shard).is_file())
            .collect();
        if !missing.is_empty() {
            view.message(&format!(
                "teacher: writing {} windows of {} tokens into {}",
                config.windows,
                seq + 1,
                folder.path.display()
            ));
        }
        let began = Instant::now();
        for (done, &shard) in missing.iter().enumerate() {
            let first = shard * SHARD_WINDOWS;
            let last = config.windows.min(first + SHARD_WINDOWS);
            let Some(tokens) = self.write_windows(config, data, text, first..last, interrupt)?
            else {
                return Ok(None);
            };
            let bytes = bytes_of(text, &tokens)?;
            shard::write(&folder.shard(shard), identity, |writer| {
                writer.push(&tokens, bytes)
            })?;
            super::tell_shard(view, began, [done + 1, missing.len()], "shards written");
        }
        let open = |shard: &u64| TokenStore::open(&folder.shard(*shard), &identity);
        let written = WrittenWindows {
            shards: shards.iter().map(open).collect::<Result<_, _>>()?,
            windows: config.windows,
            seq,
            prompt: config.prompt,
        };
        let mixed = MixedWindows::new(Arc::clone(data), Arc::new(written), config.share);
        Ok(Some(Arc::new(mixed)))
    }

    /// Everything that the text depends on.
    fn text_key(
        &self,
        config: &WrittenConfig,
        source: &Source,
        seq: usize,
    ) -> Result<Hash, TrainError> {
        // How much of it a run learns from is not among it.
        let WrittenConfig {
            windows,
            share: _,
            prompt,
            temperature,
            top_p,
            seed,
        } = config;
        let text = format!(
            "written {} {} {} {seq} {windows} {prompt} {temperature} {top_p} {seed}",
            self.named(),
            source.name()?,
            source.hash()?,
        );
        Ok(Hash::of(text.as_bytes()))
    }

    /// Tokens of some windows, one after the other; none if it was stopped. Each follows from the seed and its number.
    fn write_windows(
        &self,
        config: &WrittenConfig,
        data: &Arc<dyn Windows>,
        text: &Text,
        numbers: std::ops::Range<u64>,
        interrupt: &Interrupt,
    ) -> Result<Option<Vec<u32>>, TrainError> {
        let mut all = Vec::new();
        let mut first = numbers.start;
        while first < numbers.end {
            if interrupt.requested() {
                return Ok(None);
            }
            let last = numbers.end.min(first + LANES);
            let lanes: Vec<Vec<u32>> = (first..last)
                .map(|number| prompt(config, &**data, number))
                .collect();
            let vocab = text.tokenizer.vocab_size() as usize;
            let rngs = (first..last).map(|number| random(config.seed, TOKENS, 0, number));
            let lanes =
                self.continue_lanes(config, lanes, rngs.collect(), [data.seq() + 1, vocab])?;
            all.extend(lanes.into_iter().flatten());
            first = last;
        }
        Ok(Some(all))
    }

    /// Continues lanes of equal length up to `length` tokens, each with its own draws below `vocab`.
    fn continue_lanes(
        &self,
        config: &WrittenConfig,
        mut lanes: Vec<Vec<u32>>,
        mut rngs: Vec<ChaCha8Rng>,
        [length, vocab]: [usize; 2],
    ) -> Result<Vec<Vec<u32>>, TrainError> {
        let (model, device) = (&self.run.model, &self.device);
        let drawn = SampleConfig {
            temperature: config.temperature,
            top_p: config.top_p,
            ..SampleConfig::default()
        };
        let (batch, given) = (lanes.len(), lanes[0].len());
        let ids = lanes
            .iter()
            .flatten()
            .map(|id| *id as i32)
            .collect::<Vec<_>>();
        let input = Tensor::<2, Int>::from_data(TensorData::new(ids, [batch, given]), device);
        let state = model.initial_state(batch, device)?;
        let (scores, mut state) = model.forward_with_state(input, state)?;
        let classes = scores.dims()[2];
        let mut scores = scores.narrow(1, given - 1, 1).reshape([batch, classes]); // [batch, vocab]
        loop {
            let rows: Vec<f32> = scores.into_data().iter::<f32>().collect();
            let mut next = Vec::with_capacity(batch);
            let lanes_with_scores = lanes.iter_mut().zip(rows.chunks_exact(classes));
            for ((lane, row), rng) in lanes_with_scores.zip(&mut rngs) {
                let token = sample(&row[..vocab], &drawn, rng);
                lane.push(token);
                next.push(token as i32);
            }
            if lanes[0].len() == length {
                return Ok(lanes);
            }
            let input = Tensor::<1, Int>::from_data(TensorData::new(next, [batch]), device);
            (scores, state) = model.step(input, state)?;
        }
    }
}

/// The first tokens of a window: those of training text at a random place.
fn prompt(config: &WrittenConfig, data: &dyn Windows, number: u64) -> Vec<u32> {
    let seq = data.seq();
    let place = below(&mut random(config.seed, PROMPTS, 0, number), data.places());
    let (mut inputs, mut targets, mut mask) = (vec![0; seq], vec![0; seq], vec![false; seq]);
    let lane = Lane {
        inputs: &mut inputs,
        targets: &mut targets,
        mask: &mut mask,
    };
    data.read(place, lane);
    inputs.truncate(config.prompt);
    inputs
}

/// What shards of a teacher's text say that they are.
fn identity(text: &Text, key: &Hash) -> ShardIdentity {
    ShardIdentity {
        vocab_size: text.tokenizer.vocab_size(),
        tokenizer: text.tokenizer.hash(),
        corpus: *key,
    }
}

fn bytes_of(text: &Text, tokens: &[u32]) -> Result<u64, TrainError> {
    let mut bytes = 0;
    for token in tokens {
        bytes += text.tokenizer.token_bytes(*token)?.len() as u64;
    }
    Ok(bytes)
}
