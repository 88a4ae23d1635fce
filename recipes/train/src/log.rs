//! Where the numbers of a run go: `metrics.jsonl` and the view.

use std::collections::BTreeMap;
use std::time::Duration;

use kiln_loader::Split;
use kiln_run::{Kind, MetricsWriter, Progress, Record, View, format};

use crate::TrainError;
use crate::launch::EnergyCounter;
use crate::learner::Update;
use crate::outcome::HeldOut;
use crate::probe::GradientProbe;
use crate::setup::Setup;
use crate::state::Position;

/// Metrics and view of one run.
pub(crate) struct Log {
    metrics: MetricsWriter,
    view: View,
    every: u64,
    /// None for a task.
    bits_per_nat: Option<f64>,
    interval: Interval,
    /// Of the devices that tell, by the name of the value.
    device_memory: BTreeMap<String, f64>,
    energy: Option<Energy>,
}

/// A device's counter with what it said last.
struct Energy {
    counter: EnergyCounter,
    last: Option<f64>,
}

impl Energy {
    fn new(counter: EnergyCounter) -> Self {
        let last = counter();
        Self { counter, last }
    }

    /// Joules since this was asked last; none if the device did not tell then or now, or counted anew.
    fn since_last(&mut self) -> Option<f64> {
        let now = (self.counter)();
        let before = std::mem::replace(&mut self.last, now);
        Some(now? - before?).filter(|joules| *joules >= 0.0)
    }
}

/// Sums since the last record.
#[derive(Default)]
struct Interval {
    nats: f64,
    /// None without a teacher.
    divergence: Option<f64>,
    objective: f64,
    tokens: u64,
    counted: u64,
    busy: Duration,
    /// Part of it that the teacher took.
    teacher: Duration,
    /// Whether that is not known of every update.
    is_untimed: bool,
}

impl Interval {
    /// What is noted of a loss that is more than cross-entropy, and of a teacher: how far the student is from it, and what each of
    /// the two takes.
    fn beside_nats(&self) -> BTreeMap<String, f64> {
        let objective = self.objective / self.counted as f64;
        let Some(divergence) = self.divergence else {
            // Without anything beside it, the very sum of cross-entropy.
            let is_more = self.objective != self.nats;
            let noted = is_more.then(|| ("objective".into(), objective));
            return noted.into_iter().collect();
        };
        let rate = |time: Duration| self.tokens as f64 / time.as_secs_f64();
        let mut noted = BTreeMap::from([
            ("distill_loss".into(), divergence / self.counted as f64),
            ("objective".into(), objective),
        ]);
        if self.is_untimed {
            return noted;
        }
        noted.extend([
            ("teacher_tokens_per_s".into(), rate(self.teacher)),
            (
                "student_tokens_per_s".into(),
                rate(self.busy.saturating_sub(self.teacher)),
            ),
        ]);
        noted
    }
}

/// How the event of a skipped step begins.
pub(crate) fn skip_mark(step: u64) -> String {
    format!("step {step} skipped: ")
}

/// Whether a run's records end as those of a run that gave up with [`TrainError::NonFinite`]: its last steps, one more than the
/// `max_skipped` of its recipe, were all skipped, and nothing came after.
pub fn has_diverged(records: &[Record], max_skipped: u32) -> bool {
    let skipped = |record: &Record| {
        let text = record.text.as_deref().unwrap_or_default();
        record.kind == Kind::Event && text.starts_with(&skip_mark(record.step))
    };
    let Some(last) = records.last().filter(|last| skipped(last)) else {
        return false;
    };
    let first = last.step.saturating_sub(max_skipped.into());
    (first..=last.step).all(|step| {
        let mut of_step = records.iter().rev().filter(|record| record.step == step);
        of_step.any(skipped)
    })
}

impl HeldOut {
    /// Its measures, as metrics name them.
    pub(crate) fn values(&self, split: &str) -> BTreeMap<String, f64> {
        let mut values = BTreeMap::from([
            (format!("{split}_loss"), self.score.loss()),
            (format!("{split}_accuracy"), self.score.accuracy()),
        ]);
        if let Some(bits) = self.bits_per_byte {
            values.insert(format!("{split}_bits_per_byte"), bits);
        }
        if let Some(perplexity) = self.word_perplexity {
            values.insert(format!("{split}_word_perplexity"), perplexity);
        }
        if let Some(beside) = &self.teacher {
            values.insert(format!("{split}_teacher_agreement"), beside.agreement());
            values.insert(format!("{split}_teacher_kl"), beside.mean_divergence());
            values.insert(format!("{split}_teacher_loss"), beside.teacher.loss());
        }
        values
    }
}

impl Log {
    /// Starts the metrics, or goes on after `resume`; what a killed process wrote beyond that step is dropped.
    pub fn open(
        setup: &Setup,
        resume: Option<u64>,
        view: View,
        energy: Option<EnergyCounter>,
    ) -> Result<Self, TrainError> {
        let path = setup.folder.metrics();
        let metrics = match resume {
            Some(step) => MetricsWriter::resume(&path, step)?,
            None => MetricsWriter::create(&path)?,
        };
        Ok(Self {
            metrics,
            view,
            every: setup.resolved.recipe.value.train.log_every,
            bits_per_nat: setup.data.bits_per_byte(Split::Train, 1.0),
            interval: Interval::default(),
            device_memory: BTreeMap::new(),
            energy: energy.map(Energy::new),
        })
    }

    /// Notes an update; every `log_every` steps the interval becomes a record.
    pub fn step(
        &mut self,
        position: &Position,
        update: &Update,
        rate: f64,
        busy: Duration,
        progress: Progress,
    ) -> Result<(), TrainError> {
        let sums = &mut self.interval;
        sums.busy += busy;
        match update.teacher_time {
            Some(time) => sums.teacher += time,
            None => sums.is_untimed = true,
        }
        sums.tokens += update.tokens;
        if update.skipped.is_none() {
            sums.nats += update.loss * update.tokens as f64;
            sums.objective += update.objective * update.tokens as f64;
            if let Some(divergence) = update.divergence {
                *sums.divergence.get_or_insert(0.0) += divergence * update.tokens as f64;
            }
            sums.counted += update.tokens;
        }
        let loss = sums.nats / sums.counted as f64;
        let rate_tokens = sums.tokens as f64 / sums.busy.as_secs_f64();
        self.view.update(&Progress {
            loss,
            bits_per_byte: self.bits_per_nat.map(|bits| loss * bits),
            lr: Some(rate),
            grad_norm: Some(update.grad_norm),
            tokens_per_s: rate_tokens,
            ..progress.clone()
        });
        if position.step.is_multiple_of(self.every) {
            let mut values = BTreeMap::from([
                ("loss".into(), loss),
                ("learning_rate".into(), rate),
                ("grad_norm".into(), update.grad_norm),
                ("tokens_per_s".into(), rate_tokens),
                ("skipped".into(), position.skipped as f64),
            ]);
            if let Some(scale) = position.loss_scale {
                values.insert("loss_scale".into(), scale.factor());
            }
            values.extend(self.interval.beside_nats());
            values.extend(self.device_memory.clone());
            if let Some(joules) = self.energy.as_mut().and_then(Energy::since_last) {
                values.insert("energy_j".into(), joules);
            }
            if let Some(memory) = progress.memory_bytes {
                values.insert("memory_bytes".into(), memory as f64);
            }
            self.append(position, Kind::Train, values, None)?;
            self.interval = Interval::default();
        }
        Ok(())
    }

    /// Notes the bytes that the allocator of each device has reserved, for the next record.
    pub fn device_memory(&mut self, of: &[Option<u64>]) {
        let known = of.iter().enumerate();
        let known = known.filter_map(|(rank, bytes)| Some((rank, (*bytes)? as f64)));
        let named = known.map(|(rank, bytes)| match rank {
            0 => ("device_memory_bytes".into(), bytes),
            _ => (format!("device_memory_bytes_{rank}"), bytes),
        });
        self.device_memory = named.collect();
    }

    /// Notes a probe of the gradient.
    pub fn probe(&mut self, position: &Position, probe: &GradientProbe) -> Result<(), TrainError> {
        let mut values = BTreeMap::new();
        for (of, agreement) in [("", probe.all), ("_potential", probe.potential)] {
            values.insert(format!("gradient_cosine{of}"), agreement.cosine);
            values.insert(format!("gradient_norm{of}"), agreement.norm);
            values.insert(format!("gradient_norm_exact{of}"), agreement.exact_norm);
        }
        self.append(position, Kind::Train, values, None)
    }

    /// Notes an evaluation.
    pub fn evaluation(
        &mut self,
        position: &Position,
        held_out: &HeldOut,
        best: bool,
    ) -> Result<(), TrainError> {
        let mark = if best { "  best so far" } else { "" };
        let measure = match held_out.bits_per_byte {
            Some(bits) => format!("{} bits/byte", format::number(bits)),
            None => format!("accuracy {:.4}", held_out.score.accuracy()),
        };
        let teacher = held_out.teacher.map_or_else(String::new, |beside| {
            format!(
                ", agrees with the teacher on {:.1} %",
                100.0 * beside.agreement()
            )
        });
        self.message(&format!(
            "step {}: validation loss {}, {measure}{teacher}{mark}",
            position.step,
            format::number(held_out.score.loss()),
        ));
        self.append(position, Kind::Eval, held_out.values("validation"), None)
    }

    /// Notes the results of the run.
    pub fn result(
        &mut self,
        position: &Position,
        values: BTreeMap<String, f64>,
    ) -> Result<(), TrainError> {
        self.append(position, Kind::Final, values, None)
    }

    /// Notes something that happened, for the file alone.
    pub fn event(&mut self, position: &Position, text: &str) -> Result<(), TrainError> {
        self.append(position, Kind::Event, BTreeMap::new(), Some(text.into()))
    }

    /// Shows a line.
    pub fn message(&mut self, text: &str) {
        self.view.message(text);
    }

    /// Ends the view.
    pub fn close(self) {
        self.view.finish();
    }

    fn append(
        &mut self,
        position: &Position,
        kind: Kind,
        values: BTreeMap<String, f64>,
        text: Option<String>,
    ) -> Result<(), TrainError> {
        Ok(self.metrics.append(&Record {
            step: position.step,
            tokens: position.tokens,
            time_s: position.elapsed_s,
            kind,
            values,
            text,
        })?)
    }
}

/// Shows what the preparation of data says.
pub fn show_preparation(view: &mut View, progress: &kiln_text::Progress) {
    use kiln_text::Progress as P;
    match progress {
        P::Discovering => view.message("data: asking cargo for the workspace's packages"),
        P::Downloading { url, done: 0, .. } => view.message(&format!("data: downloading {url}")),
        P::TrainingTokenizer { vocab_size } => {
            view.message(&format!(
                "data: training a BPE tokenizer of {vocab_size} tokens"
            ));
        }
        P::Tokenizing {
            split,
            done: 0,
            total,
        } => {
            view.message(&format!(
                "data: tokenizing {} ({})",
                split.name(),
                format::bytes(*total)
            ));
        }
        P::Reused { path } => {
            view.message(&format!("data: prepared before, in {}", path.display()))
        }
        P::Warning(text) => view.message(&format!("data: warning: {text}")),
        P::Reading { .. } | P::Downloading { .. } | P::Tokenizing { .. } => {}
    }
}
