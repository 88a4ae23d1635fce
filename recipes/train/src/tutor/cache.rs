//! Answers of a teacher that are kept: given once for every window of a text, and read from disk after that.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use burn::tensor::{Device, Int, Tensor, TensorData};
use kiln_distill::{
    CacheLayout, CacheReader, CacheWriter, DistillConfig, Rows, Target, WindowIndex,
};
use kiln_loader::{TokenBatch, Windows};
use kiln_run::{Interrupt, View, format};
use kiln_text::Hash;

use super::Tutor;
use crate::TrainError;
use crate::data::Source;
use crate::loss::DeviceBatch;

/// Answers of the teacher that were given before.
pub(super) struct Cache {
    reader: CacheReader,
    index: WindowIndex,
}

/// Windows that the teacher answers at a time when it fills a cache.
const CACHE_BATCH: u64 = 32;

/// The cache that a recipe would make of some windows.
pub(crate) fn cache_layout(config: &DistillConfig, windows: &dyn Windows) -> CacheLayout {
    CacheLayout {
        windows: WindowIndex::count(windows),
        seq: windows.seq(),
        top_k: config.top_k,
    }
}

impl Tutor {
    /// Makes sure that its answers are kept below `caches`, if the recipe asks for that; false if it was stopped before.
    ///
    /// # Errors
    /// A full disk, a damaged shard, and those of the model.
    pub(crate) fn prepare(
        &mut self,
        windows: &Arc<dyn Windows>,
        source: &Source,
        caches: &Path,
        view: &mut View,
        interrupt: &Interrupt,
    ) -> Result<bool, TrainError> {
        if !self.config.cache {
            return Ok(true);
        }
        let layout = cache_layout(&self.config, &**windows);
        let folder = caches
            .join("teachers")
            .join(self.cache_key(&layout, source)?);
        let writer = CacheWriter::open(&folder, layout, &mut || {
            view.message("teacher: another process is asking it; waiting");
        })?;
        let missing = writer.missing();
        if !missing.is_empty() {
            view.message(&format!(
                "teacher: keeping its {} likeliest tokens for {} windows, {} in {}",
                layout.top_k,
                layout.windows,
                format::bytes(layout.bytes()),
                folder.display()
            ));
        }
        let began = Instant::now();
        for (done, shard) in missing.iter().enumerate() {
            if interrupt.requested() {
                return Ok(false);
            }
            writer.write(*shard, &self.rows(&**windows, layout.windows_of(*shard))?)?;
            super::tell_shard(view, began, [done + 1, missing.len()], "shards");
        }
        self.cache = Some(Cache {
            reader: writer.finish()?,
            index: WindowIndex::new(&**windows),
        });
        Ok(true)
    }

    /// Names a cache by everything that its answers depend on.
    fn cache_key(&self, layout: &CacheLayout, source: &Source) -> Result<String, TrainError> {
        let text = format!(
            "{} {} {} {} {} {} {}",
            self.named(),
            source.name()?,
            source.hash()?,
            layout.windows,
            layout.seq,
            layout.top_k,
            self.config.temperature,
        );
        Ok(Hash::of(text.as_bytes()).short())
    }

    /// Its answers at every position of some windows; zeros where no target counts.
    fn rows(
        &self,
        windows: &dyn Windows,
        numbers: std::ops::Range<u64>,
    ) -> Result<Rows, TrainError> {
        let classes = self.config.top_k + 1;
        let mut rows = Rows::default();
        let mut first = numbers.start;
        while first < numbers.end {
            let last = numbers.end.min(first + CACHE_BATCH);
            let batch = WindowIndex::batch(windows, first..last);
            first = last;
            let start = rows.log_probs.len() / classes;
            let positions = start + batch.mask.len();
            rows.kept.resize(positions * self.config.top_k, 0);
            rows.log_probs.resize(positions * classes, 0.0);
            if batch.num_tokens() == 0 {
                continue;
            }
            let target = self.ask(&DeviceBatch::new(&batch, &self.device))?.target;
            let kept: Vec<i32> = target
                .kept
                .map_or_else(Vec::new, |kept| kept.into_data().iter::<i32>().collect());
            let log_probs: Vec<f32> = target.log_probs.into_data().iter::<f32>().collect();
            let counted = (0..batch.mask.len()).filter(|at| batch.mask[*at]);
            for (row, at) in counted.enumerate() {
                let (k, to) = (self.config.top_k, start + at);
                rows.kept[to * k..(to + 1) * k].copy_from_slice(&kept[row * k..(row + 1) * k]);
                rows.log_probs[to * classes..(to + 1) * classes]
                    .copy_from_slice(&log_probs[row * classes..(row + 1) * classes]);
            }
        }
        Ok(rows)
    }
}

impl Cache {
    /// The answers where targets of a batch count, on `device`.
    pub(super) fn target(
        &self,
        batch: &TokenBatch,
        top_k: usize,
        device: &Device,
    ) -> Result<Target, TrainError> {
        let mut rows = Rows::default();
        for (lane, mask) in batch.mask.chunks(batch.seq).enumerate() {
            let counted = (0..batch.seq).filter(|at| mask[*at]);
            self.reader
                .read(self.index.find(batch, lane)?, counted, &mut rows);
        }
        let count = rows.log_probs.len() / (top_k + 1);
        let kept = TensorData::new(rows.kept, [count, top_k]);
        let log_probs = TensorData::new(rows.log_probs, [count, top_k + 1]);
        Ok(Target {
            kept: Some(Tensor::<2, Int>::from_data(kept, device)),
            log_probs: Tensor::from_data(log_probs, device),
        })
    }
}
